"""Markdown: lines of a table, and the part of a page that a command writes.

A written part lies between two comments, so that the rest of the page stays as people wrote it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


def row(*cells: str) -> str:
    """Return a table's line of cells."""
    return "| " + " | ".join(cells) + " |"


def rule(columns: int) -> str:
    """Return the line under a table's head."""
    return "|" + "---|" * columns


@dataclass(frozen=True)
class WrittenPart:
    """A part of a page, between `<!-- NAME: written by COMMAND -->` and `<!-- end of NAME -->`."""

    name: str
    command: str

    @property
    def begin(self) -> str:
        """The comment before it."""
        return f"<!-- {self.name}: written by `{self.command}` -->"

    @property
    def end(self) -> str:
        """The comment after it."""
        return f"<!-- end of {self.name} -->"

    def replaced(self, page: str, lines: Iterable[str]) -> str:
        """Return the page with these lines as its part; raise ValueError where a comment is missing."""
        before, begin, rest = page.partition(self.begin)
        _, end, after = rest.partition(self.end)
        if not (begin and end):
            raise ValueError(f"expected the comments {self.begin} and {self.end}")
        return f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}{after}"

    def write(self, path: Path, lines: Iterable[str]) -> None:
        """Replace the part of a page on disk; raise SystemExit, with its path, where a comment is missing."""
        try:
            path.write_text(self.replaced(path.read_text(), lines))
        except ValueError as error:
            raise SystemExit(f"{path}: {error}") from error
