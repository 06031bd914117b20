"""Writes what slowdown attacks reached into docs/security.md."""

from collections.abc import Iterator
from pathlib import Path

from bench.slowdown.record import (
    BALANCED,
    CAPPED,
    CLEAN,
    EACH,
    FAST,
    KINDS,
    NOISE,
    SETTINGS,
    UNIVERSAL,
    Reached,
    SlowdownRecord,
)
from training.reporting.markdown import WrittenPart, row, rule
from training.reporting.numerals import percent, percent_range

PAGE = Path(__file__).parent.parent.parent / "docs" / "security.md"
PART = WrittenPart("slowdown", "python -m bench.slowdown")


def write(record: SlowdownRecord) -> None:
    """Write a measurement into its place on the page."""
    PART.write(PAGE, lines(record))


def lines(record: SlowdownRecord) -> Iterator[str]:
    """Yield the whole part of the page."""
    versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
    yield (
        f"`{record.model}`; n = {record.n:,} test rows, drawn by a seed. {record.steps} steps for one "
        f"perturbation a row; {record.universal_steps} for one that is added to all rows, found on the "
        f"{record.universal_rows:,} tune rows. Noise moves every pixel by the size, up or down at random. "
        f"The logits that the attack differentiates lie within {record.parity:.0e} of those that are served. "
        f"{versions}."
    )
    yield ""
    yield "![Multiply-adds by size of the perturbation](security/slowdown.svg)"
    yield ""
    yield from summary(record)
    yield ""
    yield row(
        "perturbation",
        "size, of 255",
        "operating point",
        "multiply-adds (95 % interval)",
        "times",
        "leave at each exit",
        "accuracy",
        "full network's",
        "differs from it",
        "drift index",
    )
    yield rule(10)
    for setting in SETTINGS:
        yield _line(record, record.find(CLEAN, 0, setting))
    for kind in KINDS:
        for size in record.sizes:
            for setting in SETTINGS:
                yield _line(record, record.find(kind, size, setting))


def summary(record: SlowdownRecord) -> Iterator[str]:
    """Yield how far the cost went."""
    small, large = record.sizes[0], record.sizes[-1]
    clean, quick = (record.find(CLEAN, 0, setting).multiply_adds_share for setting in (BALANCED, FAST))
    yield (
        f"- No input can cost more than full depth: {1 / clean:.1f} times an ordinary row at `balanced`, "
        f"which takes {percent(clean)}, and {1 / quick:.1f} times one at "
        "`fast`."
    )
    yield (
        f"- One perturbation a row reaches {_times(record, EACH, small)} at size {small} and "
        f"{_times(record, EACH, large)} at size {large} at `balanced`; at `fast` "
        f"{_times(record, EACH, small, FAST)} and {_times(record, EACH, large, FAST)}."
    )
    yield (
        f"- One perturbation for all rows, which needs no knowledge of the row, reaches "
        f"{_times(record, UNIVERSAL, small)} and {_times(record, UNIVERSAL, large)} at `balanced`; noise of "
        f"the same sizes {_times(record, NOISE, small)} and {_times(record, NOISE, large)}."
    )
    means = [_mean_at_alarm(record, size) for size in record.sizes]
    shares = [record.alarming(EACH, size, BALANCED) for size in record.sizes]
    fires = " / ".join("never" if share is None else percent(share, 0) for share in shares)
    yield (
        f"- The drift alarm of `balanced`, at its default of {record.alarm:g} over {record.window_rows:,} "
        f"rows, fires once {fires} of the rows are perturbed one by one, at size "
        f"{' / '.join(str(size) for size in record.sizes)}; all rows together then take "
        f"{' / '.join(percent(share) for share in means)}."
    )
    capped = max(
        (record.find(EACH, size, CAPPED) for size in record.sizes), key=lambda each: each.multiply_adds_share
    )
    unharmed = record.find(CLEAN, 0, CAPPED)
    yield (
        f"- A cap of `max_exit` 1 holds a row to {percent(record.cost_shares[1])} whatever is sent; the "
        f"worst measured is {percent(capped.multiply_adds_share)}. Ordinary rows lose "
        f"{100 * (record.find(CLEAN, 0, BALANCED).accuracy - unharmed.accuracy):.2f} points by it."
    )


def _mean_at_alarm(record: SlowdownRecord, size: int) -> float:
    """Return the mean multiply-adds of all rows where the drift alarm begins to fire."""
    attacked = record.alarming(EACH, size, BALANCED) or 1.0
    perturbed, clean = record.find(EACH, size, BALANCED), record.find(CLEAN, 0, BALANCED)
    return attacked * perturbed.multiply_adds_share + (1 - attacked) * clean.multiply_adds_share


def _times(record: SlowdownRecord, kind: str, size: int, setting: str = BALANCED) -> str:
    share = record.find(kind, size, setting).multiply_adds_share
    return f"{percent(share)} ({record.factor(kind, size, setting):.1f} times)"


def _line(record: SlowdownRecord, each: Reached) -> str:
    return row(
        each.kind if each.setting == BALANCED else "",
        str(each.size) if each.setting == BALANCED and each.size else "",
        _setting(each.setting),
        f"{percent(each.multiply_adds_share)} ({percent_range(each.low, each.high)})",
        f"{record.factor(each.kind, each.size, each.setting):.1f}",
        " / ".join(percent(share, 0) for share in each.exit_shares),
        percent(each.accuracy),
        percent(each.full_accuracy),
        percent(each.disagreement),
        f"{record.drift(each.kind, each.size, each.setting):.2f}" if each.setting in record.baseline else "",
    )


def _setting(setting: str) -> str:
    name, _, cap = setting.partition(", ")
    return f"`{name}`" + (f", `{cap}`" if cap else "")
