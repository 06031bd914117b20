"""Offramp: the command `offramp`. An installed wheel also has `offramp.serving` and `offramp.training`."""

from serving import __version__

__all__ = ["__version__"]
