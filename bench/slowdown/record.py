"""What slowdown attacks reached, as kept in docs/security/slowdown.json."""

from pathlib import Path

import numpy as np

from serving.monitor.drift import stability_index
from training.reporting.record import RecordPart

CLEAN, NOISE, UNIVERSAL, EACH = "none", "noise", "one for all rows", "one a row"
KINDS = (NOISE, UNIVERSAL, EACH)
BALANCED, FAST, CAPPED = "balanced", "fast", "balanced, max_exit 1"
SETTINGS = (BALANCED, FAST, CAPPED)


class Reached(RecordPart):
    """What one perturbation of one size did at one setting."""

    kind: str
    size: int
    """Largest change of a pixel, in its 256 steps; 0 where nothing is perturbed."""
    setting: str
    multiply_adds_share: float
    low: float
    high: float
    """95 % interval of the share."""
    exit_shares: tuple[float, ...]
    accuracy: float
    full_accuracy: float
    """Of the full network on the same perturbed rows."""
    disagreement: float
    """With the full network's answers to the same perturbed rows."""


class SlowdownRecord(RecordPart):
    """The whole measurement."""

    model: str
    n: int
    """Test rows, sampled by a seed."""
    universal_rows: int
    """Tune rows on which the one perturbation for all was found."""
    steps: int
    universal_steps: int
    parity: float
    """Largest difference of a logit between what the attack saw and what is served."""
    cost_shares: tuple[float, ...]
    """What a row costs that leaves at each exit, as a share of full depth."""
    baseline: dict[str, tuple[float, ...]]
    """Exit shares of the published points in the manifest, which the drift alarm compares with."""
    window_rows: int
    alarm: float
    """The server's defaults: rows of a window, and the index that raises the alarm."""
    versions: dict[str, str]
    reached: tuple[Reached, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes tried, from the smallest."""
        return tuple(sorted({each.size for each in self.reached if each.size}))

    def find(self, kind: str, size: int, setting: str) -> Reached:
        """Return what a perturbation of a size did at a setting."""
        (found,) = (
            each
            for each in self.reached
            if each.setting == setting
            and (each.size == 0 if size == 0 else (each.kind, each.size) == (kind, size))
        )
        return found

    def drift(self, kind: str, size: int, setting: str, attacked: float = 1.0) -> float:
        """Return the drift index of a window of which that share is perturbed and the rest as published."""
        baseline_E = np.array(self.baseline[setting])
        shares_E = np.array(self.find(kind, size, setting).exit_shares)
        mixed_E = attacked * shares_E + (1 - attacked) * baseline_E
        return stability_index(np.round(self.window_rows * mixed_E), baseline_E)

    def alarming(self, kind: str, size: int, setting: str) -> float | None:
        """Return the smallest share of perturbed rows, in percent steps, that raises the drift alarm."""
        for share in np.arange(0.01, 1.005, 0.01):
            if self.drift(kind, size, setting, share) > self.alarm:
                return float(share)
        return None

    def factor(self, kind: str, size: int, setting: str) -> float:
        """Return how many times the multiply-adds of unperturbed rows."""
        found, clean = self.find(kind, size, setting), self.find(CLEAN, 0, setting)
        return found.multiply_adds_share / clean.multiply_adds_share


def read(path: Path) -> SlowdownRecord:
    """Read a record."""
    return SlowdownRecord.model_validate_json(path.read_text())
