"""Writes a recipe as TOML, with the reason for each setting as a comment."""

import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from training.init.choices import Choice

WIDTH = 40
"""Column of the comments."""


def recipe_text(choices: Iterable[Choice], header: Iterable[str] = ()) -> str:
    """Return the TOML text of a recipe. header: lines of comments at its beginning."""
    lines = [f"# {line}" for line in header]
    by_section = sorted(choices, key=lambda choice: _order(choice.key))
    for section, choices_of_section in groupby(by_section, key=lambda choice: _section(choice.key)):
        if section:
            lines += ["", f"[{section}]"]
        lines += [_line(choice) for choice in choices_of_section]
    return "\n".join(lines).lstrip("\n") + "\n"


def _section(key: str) -> str:
    return key.rpartition(".")[0]


SECTIONS = ("", "dataset", "augmentation", "architecture", "generations", "schedule", "operating_points")


def _order(key: str) -> tuple[int, str]:
    """Return where a section comes. Keys keep their order, because sorting is stable."""
    section = _section(key)
    return SECTIONS.index(section.partition(".")[0]), section


def _line(choice: Choice) -> str:
    name = choice.key.rpartition(".")[2]
    setting = f"{name} = {_toml(choice.value)}"
    return f"{setting:<{WIDTH}} # {choice.reason}" if choice.reason else setting


def _toml(value: Any) -> str:  # noqa: ANN401 - any value of a recipe
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    return json.dumps(value, ensure_ascii=False)
