"""The commands of docs/operations.md, in their order."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
BACKGROUND = ("offramp serve ", "prometheus ")
"""The commands that run until they are stopped. Each is alone in its block."""


@dataclass(frozen=True)
class Block:
    """A fenced block of commands, or a command of a table."""

    section: str
    commands: str

    @property
    def runs_until_stopped(self) -> bool:
        """Whether the block needs a terminal of its own."""
        return self.commands.startswith(BACKGROUND)


def section(title: str) -> str:
    """Return the text of a section."""
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def fenced(language: str, text: str) -> list[str]:
    """Return the fenced blocks of a language in a text."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def page_blocks() -> Iterator[Block]:
    """Yield the blocks of the page, and the first commands of the table of symptoms."""
    for title in re.findall(r"^## (.+)$", PAGE, re.MULTILINE):
        for commands in fenced("sh", section(title)):
            yield Block(title, commands)
        for command in re.findall(r"^\| [^|]+ \| `([^|]+)` \| ", section(title), re.MULTILINE):
            if title == "At 3 a.m.":
                yield Block(title, f"{command}\n")
