"""Progress of `attach` on a terminal: lines, and a bar for each long step."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

Advance = Callable[[int], object]
"""Called with the amount of work done since the last call, such as the `update` of a tqdm bar."""


class AttachProgress:
    """Writes to stderr; shows bars only on a terminal."""

    def write(self, text: str) -> None:
        """Write one or more lines."""
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, name: str, total: int, unit: str) -> Iterator[Advance]:
        """Show a bar and yield the function that advances it."""
        with tqdm(total=total, desc=name, unit=f" {unit}s", disable=None, file=sys.stderr) as bar:
            yield bar.update
