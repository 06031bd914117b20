"""Markdown tables, and generated parts of hand-written pages.

Two comments mark a generated part. The rest of the page is not changed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


def row(*cells: str) -> str:
    """Return a table row."""
    return "| " + " | ".join(cells) + " |"


def header(*titles: str) -> str:
    """Return the first two lines of a table. A title may contain several columns, separated by bars."""
    titles_row = row(*titles)
    return f"{titles_row}\n|" + "---|" * (titles_row.count("|") - 1)


@dataclass(frozen=True)
class WrittenPart:
    """A part of a page between `<!-- NAME: written by COMMAND -->` and `<!-- end of NAME -->`."""

    name: str
    command: str

    @property
    def begin(self) -> str:
        """The comment before the part."""
        return f"<!-- {self.name}: written by `{self.command}` -->"

    @property
    def end(self) -> str:
        """The comment after the part."""
        return f"<!-- end of {self.name} -->"

    def replaced(self, page: str, lines: Iterable[str]) -> str:
        """Return the page with new lines in this part; raise ValueError if a comment is missing."""
        before, begin, rest = page.partition(self.begin)
        _, end, after = rest.partition(self.end)
        if not (begin and end):
            raise ValueError(f"expected the comments {self.begin} and {self.end}")
        return f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}{after}"

    def write(self, path: Path, lines: Iterable[str]) -> None:
        """Replace the part in a file; raise SystemExit with the path if a comment is missing."""
        try:
            path.write_text(self.replaced(path.read_text(), lines))
        except ValueError as error:
            raise SystemExit(f"{path}: {error}") from error
