"""Shows how training goes: a bar a generation on stderr, or several displays at once.

Knows nothing of how a network is trained.

Shapes: `E` exits.
"""

import sys
from typing import Protocol

from tqdm import tqdm

from training.born_again.checkpoint import EpochResult

_TERMINAL_SECONDS = 0.1
_LOG_SECONDS = 10.0  # a file keeps every line that a terminal would draw over


class TrainingProgress(Protocol):
    """What a run tells while it works; an exception raised here ends the run where it stands."""

    def begin(self, generation: int, *, epochs: int, epochs_done: int, steps_per_epoch: int) -> None:
        """Start or resume a generation."""

    def step(self) -> None:
        """Count a finished step."""

    def epoch(self, epochs_done: int, epoch: EpochResult) -> None:
        """Show an epoch that is finished and safe on disk."""

    def end(self) -> None:
        """Finish the generation, or leave it where it stands."""

    def say(self, line: str) -> None:
        """Show a line on what follows, or on a result."""


class ProgressBar:
    """Progress as tqdm bars: generation, epoch, loss, and tune accuracy per exit."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._draws_over = sys.stderr.isatty()
        self._bar: tqdm[None] | None = None
        self._generation = 0
        self._epochs = 0

    def begin(self, generation: int, *, epochs: int, epochs_done: int, steps_per_epoch: int) -> None:
        """Open a bar that counts the steps of all epochs."""
        self._generation, self._epochs = generation, epochs
        self._bar = tqdm(
            desc=self._name(epochs_done),
            total=epochs * steps_per_epoch,
            initial=epochs_done * steps_per_epoch,
            file=sys.stderr,
            disable=self._quiet,
            mininterval=_TERMINAL_SECONDS if self._draws_over else _LOG_SECONDS,
            bar_format="{desc} |{bar:20}| {elapsed} < {remaining}{postfix}",
        )

    def step(self) -> None:
        """Move the bar by a step."""
        if self._bar is not None:
            self._bar.update()

    def epoch(self, epochs_done: int, epoch: EpochResult) -> None:
        """Show the epoch's figures behind the bar."""
        if self._bar is not None:
            accuracy = " / ".join(f"{share:.1%}" for share in epoch.tune_accuracy_E)
            self._bar.set_description_str(self._name(epochs_done), refresh=False)
            self._bar.set_postfix_str(
                f"loss {epoch.loss:.3f}, tune accuracy by exit {accuracy}", refresh=self._draws_over
            )

    def end(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def say(self, line: str) -> None:
        """Write a line to stderr."""
        if not self._quiet:
            print(line, file=sys.stderr)

    def _name(self, epochs_done: int) -> str:
        return f"generation {self._generation}, epoch {epochs_done}/{self._epochs}"


class Several:
    """Several progresses that are told the same, one after the other."""

    def __init__(self, *told: TrainingProgress) -> None:
        self._told = told

    def begin(self, generation: int, *, epochs: int, epochs_done: int, steps_per_epoch: int) -> None:
        """Begin with each."""
        for each in self._told:
            each.begin(generation, epochs=epochs, epochs_done=epochs_done, steps_per_epoch=steps_per_epoch)

    def step(self) -> None:
        """Count the step with each."""
        for each in self._told:
            each.step()

    def epoch(self, epochs_done: int, epoch: EpochResult) -> None:
        """Show each the epoch."""
        for each in self._told:
            each.epoch(epochs_done, epoch)

    def end(self) -> None:
        """End each."""
        for each in self._told:
            each.end()

    def say(self, line: str) -> None:
        """Show a line on each."""
        for each in self._told:
            each.say(line)
