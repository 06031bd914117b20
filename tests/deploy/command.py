"""The command `offramp` of the container, run from the checkout."""

from collections.abc import Mapping, Sequence

OFFRAMP = ("-m", "offramp")
"""Arguments for Python that run the command `offramp`."""


def with_values(arguments: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Return the arguments of a command with the values of some options replaced.

    An option is written `--name value` or `--name=value`. Raises AssertionError if an option does not occur.
    """
    replaced: list[str] = []
    missing = set(values)
    for argument in arguments:
        name, has_value, _ = argument.partition("=")
        if replaced and replaced[-1] in values:
            replaced.append(values[replaced[-1]])
        else:
            replaced.append(f"{name}={values[name]}" if has_value and name in values else argument)
        missing.discard(name)
    assert not missing, f"expected the options {sorted(missing)} among {list(arguments)}"
    return replaced
