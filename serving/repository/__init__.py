"""The model repository: the on-disk format and the versions that are served from it."""
