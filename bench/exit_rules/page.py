"""Writes the comparison of exit rules into docs/exit-rules.md: verdicts and tables."""

from collections.abc import Iterator
from pathlib import Path

from bench.exit_rules.record import (
    ACCURACY,
    DISAGREEMENT,
    FIGURES,
    CertifiedCost,
    ComparedNetwork,
    Difference,
    ExitRulesRecord,
    Interval,
)
from bench.exit_rules.rules import PLAIN
from training.reporting.markdown import WrittenPart, row, rule
from training.reporting.numerals import exactly, percent

PAGE = Path(__file__).parent.parent.parent / "docs" / "exit-rules.md"
PART = WrittenPart("rules", "python -m bench.exit_rules")


def write(record: ExitRulesRecord) -> None:
    """Write a comparison into its place on the page."""
    PART.write(PAGE, lines(record))


def lines(record: ExitRulesRecord) -> Iterator[str]:
    """Yield the whole part of the page."""
    yield from verdicts(record)
    yield ""
    versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
    yield (
        f"Intervals are of {record.resamples:,} paired resamples of the test rows; re-cuts are "
        f"{record.recuts}. {versions}, CPU."
    )
    yield ""
    yield "![Differences to the plain rule by multiply-adds](exit_rules/rules.svg)"
    for network in record.networks:
        yield ""
        yield from _network(network, record.recuts)


def verdicts(record: ExitRulesRecord) -> Iterator[str]:
    """Yield which rules pass, and what each of the others failed by."""
    for network in record.networks:
        patience = min(each.multiply_adds_share for each in network.patience)
        staying = [f"*{name}*" for name in network.rules if network.stays(name)]
        found = f"{', '.join(staying)} would stay" if staying else "no rule passes"
        yield (
            f"- **{network.title}: {found}.** Of {len(network.rules)} rules with thresholds, "
            + "; ".join(
                _count(network, what)
                for what in ("win somewhere", "lose somewhere", "certify at more multiply-adds")
            )
            + f". Patience lets nobody leave before exit 1: it costs {percent(patience)} or more."
            + "".join(_near(network))
        )


def _near(network: ComparedNetwork) -> Iterator[str]:
    """Yield what each rule would save that fails by the first test alone."""
    for name in network.rules:
        if not (network.wins(name) or network.losses(name) or network.dearer(name)):
            changes = " and ".join(
                f"{_points(each.recut_change)} at `{each.point}`"
                for each in network.certified
                if each.rule == name
            )
            yield (
                f" *{name}* fails for want of a win alone: over re-cuts the multiply-adds that it certifies "
                f"change by {changes}, in points and on average."
            )


def _count(network: ComparedNetwork, what: str) -> str:
    found = {
        "win somewhere": network.wins,
        "lose somewhere": network.losses,
        "certify at more multiply-adds": network.dearer,
    }[what]
    return f"{sum(bool(found(name)) for name in network.rules)} {what}"


def _network(network: ComparedNetwork, recuts: int) -> Iterator[str]:
    total = sum(network.multiply_adds)
    stages = " / ".join(percent(share / total, 0) for share in network.multiply_adds)
    exits = " / ".join(f"{100 * share:.2f}" for share in network.exit_accuracy)
    rows = ", ".join(f"{name} {count:,}" for name, count in network.rows.items())
    yield f"## {network.title}"
    yield ""
    own = (
        "come out as the version's own" if network.reproduces else "do **not** come out as the version's own"
    )
    yield (
        f"{total / 1e6:.1f} M multiply-adds in stages of {stages}; its exits alone have {exits} % right. "
        f"Rows: {rows}. The plain rule's certified thresholds {own}."
    )
    yield ""
    powers = "; ".join(
        f"exit {number}: " + " / ".join(f"{power:.2f}" for power in each)
        for number, each in enumerate(network.fitted_powers)
        if number
    )
    yield f"The fitted product's powers of the exits so far, by the temperature split: {powers}."
    yield ""
    yield from _decisive(network, recuts)
    yield ""
    yield from _certified(network, recuts)
    yield ""
    yield from _elsewhere(network)
    yield ""
    yield from _patience(network)


def _decisive(network: ComparedNetwork, recuts: int) -> Iterator[str]:
    points = {share: name for name, share in network.published.items()}
    compared = sum(len(network.decisive(name)) for name in network.rules)
    yield (
        "At the multiply-adds of the published points, points over the plain rule: 95 % interval in round "
        f"brackets, in square ones widened so that all {compared} hold at once; then in how many of {recuts} "
        "re-cuts it is better."
    )
    yield ""
    yield row("rule", "figure", *[f"`{name}`, {percent(share)}" for share, name in points.items()], "verdict")
    yield rule(3 + len(points))
    plain = {each.budget: each for each in network.plain}
    yield row(
        PLAIN,
        "accuracy / disagreement",
        *[
            f"{percent(plain[share].accuracy, 2)} / {percent(plain[share].disagreement, 2)}"
            for share in points
        ],
        "",
    )
    for name in network.rules:
        for figure in FIGURES:
            found = {each.budget: each for each in network.decisive(name) if each.figure == figure}
            verdict = "" if figure == DISAGREEMENT else _verdict(network, name)
            first = name if figure == ACCURACY else ""
            yield row(first, figure, *[_difference(found[share]) for share in points], verdict)


def _verdict(network: ComparedNetwork, name: str) -> str:
    if network.stays(name):
        return "**stays**"
    reasons = [
        "no win" if not network.wins(name) else "",
        "loses" if network.losses(name) else "",
        "certifies dearer" if network.dearer(name) else "",
    ]
    return ", ".join(reason for reason in reasons if reason)


def _difference(each: Difference) -> str:
    assert each.jointly is not None
    jointly = f"[{_points(each.jointly.low)}, {_points(each.jointly.high)}]"
    return f"{_interval(each.alone)} {jointly}; {each.recuts_better}"


def _certified(network: ComparedNetwork, recuts: int) -> Iterator[str]:
    points = {each.point: each.epsilon for each in network.certified}
    yield (
        "Certified as published, disagreement with the final exit at delta .05: multiply-adds, accuracy and "
        f"disagreement on test; over {recuts} re-cuts the mean change of the multiply-adds against the plain "
        "rule, in points, and how often cheaper : dearer."
    )
    yield ""
    yield row("rule", *[f"`{name}`, at most {exactly(epsilon)} differ" for name, epsilon in points.items()])
    yield rule(1 + len(points))
    for name in (PLAIN, *network.rules):
        found = {each.point: each for each in network.certified if each.rule == name}
        yield row(name, *[_certificate(found[point]) for point in points])


def _certificate(each: CertifiedCost) -> str:
    text = (
        f"{percent(each.multiply_adds_share)}, {percent(each.accuracy, 2)}, {percent(each.disagreement, 2)}"
    )
    if each.rule == PLAIN:
        return text
    return f"{text}; {_points(each.recut_change)} ({each.recuts_cheaper} : {each.recuts_dearer})"


def _elsewhere(network: ComparedNetwork) -> Iterator[str]:
    budgets = [each for each in network.plain if each.budget not in network.published.values()]
    low, high = network.course_budgets[0], network.course_budgets[-1]
    yield (
        "At other budgets, accuracy / disagreement; the mean over "
        f"{percent(low, 0)} to {percent(high, 0)} with its 95 % interval."
    )
    yield ""
    yield row("rule", *[percent(each.budget, 0) for each in budgets], "mean accuracy", "mean disagreement")
    yield rule(3 + len(budgets))
    yield row(
        PLAIN,
        *[f"{percent(each.accuracy, 2)} / {percent(each.disagreement, 2)}" for each in budgets],
        "",
        "",
    )
    for name in network.rules:
        at = {(each.figure, each.budget): each for each in network.differences if each.rule == name}
        means = {each.figure: each.mean for each in network.courses if each.rule == name}
        yield row(
            name,
            *[
                " / ".join(_points(at[figure, each.budget].alone.value) for figure in FIGURES)
                for each in budgets
            ],
            *[_interval(means[figure]) for figure in FIGURES],
        )


def _patience(network: ComparedNetwork) -> Iterator[str]:
    yield "Patience, against the plain rule at the same multiply-adds:"
    yield ""
    yield row("leaves once", "multiply-adds", "accuracy", "disagreement")
    yield rule(4)
    for each in network.patience:
        yield row(
            f"{each.agreeing} exits in a row agree",
            percent(each.multiply_adds_share),
            _interval(each.accuracy),
            _interval(each.disagreement),
        )


def _interval(each: Interval) -> str:
    return f"{_points(each.value)} ({_points(each.low)} to {_points(each.high)})"


def _points(share: float) -> str:
    """Format a difference in points, with its sign and two digits."""
    said = f"{100 * share:+.2f}".replace("-", "\N{MINUS SIGN}")
    return "0.00" if said[1:] == "0.00" else said
