"""Shows a watched job as a local run shows itself: a bar a generation, or plain lines without tqdm."""

import sys
from typing import Any

from serving.api.wire import training
from serving.console.printable import printable

TERMINAL_SECONDS, LOG_SECONDS = 0.1, 10.0
"""How often a bar is drawn: a file keeps every line that a terminal would draw over."""


class Bars:
    """Draws events on stderr; the times are the job's own, so a replay shows them too."""

    def __init__(self) -> None:
        self._make_bar = _tqdm()
        self._bar: Any = None
        self._begun_seconds: float | None = None  # where the watch began behind its generation
        self._steps_per_epoch = 0
        self._left: float | None = None

    def show(self, event: training.Event) -> None:
        """Draw what an event changes."""
        kind = event.WhichOneof("kind")
        if kind == "generation":
            self._begin(event)
        elif kind == "step":
            self._step(event)
        elif kind == "epoch":
            self._epoch(event)
        elif kind in {"line", "published"}:
            self.close()
            published = event.published
            self._say(
                event.line.text
                if kind == "line"
                else f"published {published.model} version {published.version}, "
                f"generation {published.chosen_generation}: {published.folder}, report: {published.report}"
            )

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def _begin(self, event: training.Event) -> None:
        self.close()
        begun = event.generation
        self._begun_seconds, self._left = event.time_seconds, None
        self._steps_per_epoch = begun.steps_per_epoch
        if self._make_bar is not None:
            self._bar = self._make_bar(
                desc=_name(begun.generation, begun.epochs_done, begun.epochs),
                total=begun.epochs * begun.steps_per_epoch,
                initial=begun.epochs_done * begun.steps_per_epoch,
                file=sys.stderr,
                mininterval=TERMINAL_SECONDS if sys.stderr.isatty() else LOG_SECONDS,
                bar_format="{desc} |{bar:20}|{postfix}",
            )

    def _step(self, event: training.Event) -> None:
        self._left = event.step.seconds_left if event.step.HasField("seconds_left") else None
        self._move(event, event.step.step)

    def _move(self, event: training.Event, steps: int) -> None:
        if self._bar is not None:
            self._bar.bar_format = "{desc} |{bar:20}| " + self._times(event) + "{postfix}"
            self._bar.update(steps - self._bar.n)

    def _epoch(self, event: training.Event) -> None:
        epoch = event.epoch
        name = _name(epoch.generation, epoch.epochs_done, epoch.epochs)
        accuracy = " / ".join(f"{share:.1%}" for share in epoch.tune_accuracy)
        figures = f"loss {epoch.loss:.3f}, tune accuracy by exit {accuracy}"
        if epoch.epochs_done == epoch.epochs:
            self._left = 0.0
        self._move(event, epoch.epochs_done * self._steps_per_epoch)
        if self._bar is None:
            self._say(f"{name}, {self._times(event)}, {figures}")
        else:
            self._bar.set_description_str(name, refresh=False)
            self._bar.set_postfix_str(figures, refresh=sys.stderr.isatty())

    def _times(self, event: training.Event) -> str:
        elapsed = "?" if self._begun_seconds is None else _clock(event.time_seconds - self._begun_seconds)
        left = "?" if self._left is None else _clock(self._left)
        return f"{elapsed} < {left}"

    def _say(self, line: str) -> None:
        print(printable(line), file=sys.stderr, flush=True)


def _name(generation: int, epochs_done: int, epochs: int) -> str:
    return f"generation {generation}, epoch {epochs_done}/{epochs}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def _tqdm() -> Any:  # noqa: ANN401 - the light install has none
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm
