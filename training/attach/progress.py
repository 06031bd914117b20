"""Progress of an attaching on a terminal: lines, and a bar for each long step."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from training.attach.heads.features import Told


class AttachProgress:
    """Writes to stderr; bars only where that is a terminal."""

    def say(self, text: str) -> None:
        """Write some lines."""
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, name: str, total: int, unit: str) -> Iterator[Told]:
        """Show a bar; yields what to call with how much was done since the last call."""
        with tqdm(total=total, desc=name, unit=f" {unit}s", disable=None, file=sys.stderr) as shown:
            yield shown.update
