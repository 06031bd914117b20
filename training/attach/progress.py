"""Progress of `attach` on stderr: lines, and a bar for each long step; without a terminal, only lines."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from training.reporting.line_bar import LineBar

Advance = Callable[[int], object]
"""Called with the amount of work done since the last call, such as the `update` of a tqdm bar."""


class AttachProgress:
    """Writes to stderr. quiet: shows no bars."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet

    def write(self, text: str) -> None:
        """Write one or more lines."""
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, name: str, total: int, unit: str) -> Iterator[Advance]:
        """Show a bar and yield the function that advances it."""
        if self._quiet:
            yield lambda _: None
            return
        bar: tqdm[None] | LineBar
        if sys.stderr.isatty():
            bar = tqdm(total=total, desc=name, unit=f" {unit}s", file=sys.stderr)
        else:
            bar = LineBar(f"{name}, {total:,} {unit}s", total)
        try:
            yield bar.update
        finally:
            bar.close()
