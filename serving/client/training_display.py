"""Progress of a watched job: a bar for each generation, as in a local run. Without tqdm it prints lines."""

import sys
from typing import Any

from serving.api.wire import training
from serving.console.printable import printable

TERMINAL_SECONDS, LOG_SECONDS = 0.1, 10.0
"""Seconds between two drawings of a bar. In a file each drawing is a new line, so there are fewer."""


class Bars:
    """Progress bars on stderr. Times come from the events, so a later replay shows the same times."""

    def __init__(self) -> None:
        self._make_bar = _tqdm()
        self._bar: Any = None
        self._started_seconds: float | None = None  # None if the watch began after the generation did
        self._steps_per_epoch = 0
        self._seconds_left: float | None = None

    def show(self, event: training.Event) -> None:
        """Draw an event."""
        kind = event.WhichOneof("kind")
        if kind == "generation":
            self._start_bar(event)
        elif kind == "step":
            self._step(event)
        elif kind == "epoch":
            self._epoch(event)
        elif kind in {"line", "published"}:
            self.close()
            published = event.published
            self._print(
                event.line.text
                if kind == "line"
                else f"published {published.model} version {published.version}, "
                f"generation {published.chosen_generation}: {published.folder}, report: {published.report}"
            )

    def close(self) -> None:
        """Finish the bar and leave it on the screen."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def _start_bar(self, event: training.Event) -> None:
        self.close()
        generation = event.generation
        self._started_seconds, self._seconds_left = event.time_seconds, None
        self._steps_per_epoch = generation.steps_per_epoch
        if self._make_bar is not None:
            self._bar = self._make_bar(
                desc=_name(generation.generation, generation.epochs_done, generation.epochs),
                total=generation.epochs * generation.steps_per_epoch,
                initial=generation.epochs_done * generation.steps_per_epoch,
                file=sys.stderr,
                mininterval=TERMINAL_SECONDS if sys.stderr.isatty() else LOG_SECONDS,
                bar_format="{desc} |{bar:20}|{postfix}",
            )

    def _step(self, event: training.Event) -> None:
        self._seconds_left = event.step.seconds_left if event.step.HasField("seconds_left") else None
        self._update_bar(event, event.step.step)

    def _update_bar(self, event: training.Event, steps: int) -> None:
        if self._bar is not None:
            self._bar.bar_format = "{desc} |{bar:20}| " + self._times(event) + "{postfix}"
            self._bar.update(steps - self._bar.n)

    def _epoch(self, event: training.Event) -> None:
        epoch = event.epoch
        name = _name(epoch.generation, epoch.epochs_done, epoch.epochs)
        accuracy = " / ".join(f"{share:.1%}" for share in epoch.tune_accuracy)
        figures = f"loss {epoch.loss:.3f}, tune accuracy by exit {accuracy}"
        if epoch.epochs_done == epoch.epochs:
            self._seconds_left = 0.0
        self._update_bar(event, epoch.epochs_done * self._steps_per_epoch)
        if self._bar is None:
            self._print(f"{name}, {self._times(event)}, {figures}")
        else:
            self._bar.set_description_str(name, refresh=False)
            self._bar.set_postfix_str(figures, refresh=sys.stderr.isatty())

    def _times(self, event: training.Event) -> str:
        elapsed = "?" if self._started_seconds is None else _clock(event.time_seconds - self._started_seconds)
        left = "?" if self._seconds_left is None else _clock(self._seconds_left)
        return f"{elapsed} < {left}"

    def _print(self, line: str) -> None:
        print(printable(line), file=sys.stderr, flush=True)


def _name(generation: int, epochs_done: int, epochs: int) -> str:
    return f"generation {generation}, epoch {epochs_done}/{epochs}"


def _clock(seconds: float) -> str:
    minutes, seconds_in_minute = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}:{minutes:02d}:{seconds_in_minute:02d}"
        if hours
        else f"{minutes:02d}:{seconds_in_minute:02d}"
    )


def _tqdm() -> Any:  # noqa: ANN401 - tqdm is optional
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm
