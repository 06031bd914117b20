"""What the comparison of exit rules measured, as kept in docs/exit_rules/rules.json, and its verdict."""

from collections.abc import Sequence
from pathlib import Path

from training.reporting.record import RecordPart

ACCURACY, DISAGREEMENT = "accuracy", "disagreement"
FIGURES = (ACCURACY, DISAGREEMENT)
BETTER = {ACCURACY: 1, DISAGREEMENT: -1}
"""The sign of a difference that is for the better."""


class Interval(RecordPart):
    """A difference, rule minus plain rule, as a share, with its paired 95 % interval."""

    value: float
    low: float
    high: float

    def beyond(self, sign: int) -> bool:
        """Return whether the whole interval lies on one side of 0."""
        return (self.low > 0) if sign > 0 else (self.high < 0)


class Difference(RecordPart):
    """A rule against the plain one at equal multiply-adds on test."""

    rule: str
    figure: str
    budget: float
    """Share of the full depth's multiply-adds."""
    alone: Interval
    jointly: Interval | None
    """Widened for every comparison that the decision rests on; None at the other budgets."""
    recut_change: float
    """Mean over re-cuts of the same difference."""
    recuts_better: int


class Course(RecordPart):
    """How a rule differs from the plain one along the budgets, for the plot, and on average over them."""

    rule: str
    figure: str
    values: tuple[float, ...]
    mean: Interval


class PlainPoint(RecordPart):
    """The plain rule's own figures on test at a budget."""

    budget: float
    accuracy: float
    disagreement: float


class Patience(RecordPart):
    """Leaving once so many exits in a row agree, against the plain rule at the same multiply-adds."""

    agreeing: int
    multiply_adds_share: float
    accuracy: Interval
    disagreement: Interval


class CertifiedCost(RecordPart):
    """What a rule certifies for a published point, and how that varies with the cut of the splits."""

    rule: str
    point: str
    epsilon: float
    multiply_adds_share: float
    """Test figure, as the next two; 1 where nothing faster than full depth was certified."""
    accuracy: float
    disagreement: float
    recut_change: float
    """Mean over re-cuts of the rule's multiply-adds share less the plain rule's."""
    recuts_cheaper: int
    recuts_dearer: int


class ComparedNetwork(RecordPart):
    """One network's comparison."""

    title: str
    multiply_adds: tuple[int, ...]
    """Of each stage, for one row."""
    rows: dict[str, int]
    """By split."""
    exit_accuracy: tuple[float, ...]
    """On test, where every row leaves there."""
    reproduces: bool
    """Whether the plain rule's thresholds come out as the version's own."""
    published: dict[str, float]
    """Multiply-adds share of the plain rule at each published point, on test."""
    fitted_powers: tuple[tuple[float, ...], ...]
    plain: tuple[PlainPoint, ...]
    differences: tuple[Difference, ...]
    course_budgets: tuple[float, ...]
    courses: tuple[Course, ...]
    patience: tuple[Patience, ...]
    certified: tuple[CertifiedCost, ...]

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules beside the plain one."""
        return tuple(dict.fromkeys(each.rule for each in self.differences))

    def decisive(self, rule: str) -> Sequence[Difference]:
        """Return a rule's differences at the published budgets."""
        return [each for each in self.differences if each.rule == rule and each.jointly is not None]

    def wins(self, rule: str) -> list[Difference]:
        """Return where a rule is better beyond its interval, widened for all comparisons."""
        return [
            each
            for each in self.decisive(rule)
            if each.jointly is not None and each.jointly.beyond(BETTER[each.figure])
        ]

    def losses(self, rule: str) -> list[Difference]:
        """Return where a rule is worse beyond its interval."""
        return [each for each in self.decisive(rule) if each.alone.beyond(-BETTER[each.figure])]

    def dearer(self, rule: str) -> list[CertifiedCost]:
        """Return the points that a rule certifies at more multiply-adds, on average over re-cuts."""
        return [each for each in self.certified if each.rule == rule and each.recut_change > 0]

    def stays(self, rule: str) -> bool:
        """Return whether a rule passes the decision: a win, no loss, and no certificate that costs more."""
        return bool(self.wins(rule)) and not self.losses(rule) and not self.dearer(rule)


class ExitRulesRecord(RecordPart):
    """The whole comparison."""

    resamples: int
    recuts: int
    versions: dict[str, str]
    networks: tuple[ComparedNetwork, ...]


def read(path: Path) -> ExitRulesRecord:
    """Read a record."""
    return ExitRulesRecord.model_validate_json(path.read_text())
