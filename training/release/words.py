"""How a run's figures are said to a person: each with its split, its n and its interval.

Turns records into sentences and short strings. Knows nothing of the page they stand in.
"""

from itertools import pairwise

from training.baselines import BACKBONE, SMALLER, SMALLER_TAUGHT
from training.exits.calibrate import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE
from training.exits.certify import allowed_disagreements
from training.exits.evaluate import Outcome
from training.exits.intervals import CONFIDENCE, Estimate, Proportion, mean
from training.release.summary import Goal, OperatingPointSummary, RunSummary

MOST_DIGITS = 9


def percent(share: float, digits: int = 1) -> str:
    """Say a share in percent, without digits that say nothing: 3 %, 99.7 %.

    A share between 0 and 1 gets as many digits as it takes not to be said as 0 or 100 %.
    """
    while 0 < share < 1 and float(f"{100 * share:.{digits}f}") in {0.0, 100.0} and digits < MOST_DIGITS:
        digits += 1
    return f"{100 * share:.{digits}f}".removesuffix("." + "0" * digits) + "\N{NO-BREAK SPACE}%"


def exactly(share: float) -> str:
    """Say a promised share in percent with all its digits: rounding would promise something else."""
    return f"{100 * share:.10g}\N{NO-BREAK SPACE}%"


def points(share: float) -> str:
    """Say a difference of shares in percentage points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def proportion(counted: Proportion) -> str:
    """Say a counted share with its interval."""
    low, high = counted.interval
    return f"{percent(counted.share)} ({percent_range(low, high)})"


def exit_name(number: int, exits: int) -> str:
    """Name an exit by its number; the last is the final exit."""
    return "final exit" if number == exits - 1 else f"exit {number}"


def percent_range(low: float, high: float) -> str:
    """Say an interval of shares in percent."""
    return f"{100 * low:.1f} to {percent(high)}"


def gain(estimate: Estimate) -> str:
    """Say a paired gain in points with its interval."""
    return f"{points(estimate.value)} ({points(estimate.low)} to {points(estimate.high)})"


def quantity(count: float) -> str:
    """Say a large count with a thousand's letter: 23.6 k, 1.2 M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return f"{count:g}"


def p_value(value: float | None) -> str:
    """Say a p-value; nothing was compared where there is none."""
    if value is None:
        return "\N{EN DASH}"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


NEARLY_ONE = 0.99999
"""Above it a threshold is said by what it lacks of 1: six digits would round it up to 1."""


def temperature(value: float) -> str:
    """Say a calibration temperature; one that stopped at a bound of the search was not fitted."""
    if value <= LOWEST_TEMPERATURE:
        return f"{value:.2f} (the floor)"
    return f"{value:.2f} (the ceiling)" if value >= HIGHEST_TEMPERATURE else f"{value:.2f}"


def threshold(value: float | None) -> str:
    """Say a threshold; near 1 the digits that count come late."""
    if value is None:
        return "off"
    return f"1 \N{MINUS SIGN} {1 - value:.1e}" if value > NEARLY_ONE else f"{value:.6g}"


def cost(summary: RunSummary, point: OperatingPointSummary) -> Estimate:
    """Estimate a point's mean multiply-adds of a test row, as a share of full depth."""
    return mean(summary.cost_shares, point.test.exit_counts)


def outcome_accuracy(outcome: Outcome) -> str:
    """Say a point's accuracy with its interval."""
    return proportion(Proportion(outcome.correct, outcome.n))


def outcome_disagreement(outcome: Outcome) -> str:
    """Say how often a point's answers differ from the final exit's, with the interval."""
    return proportion(Proportion(outcome.disagreements, outcome.n))


def exit_shares(outcome: Outcome) -> list[str]:
    """Say the share of rows that left at each exit, with its interval."""
    return [proportion(Proportion(count, outcome.n)) for count in outcome.exit_counts]


def headline(summary: RunSummary) -> str:
    """Say the result in one sentence: what the default point saves and what it keeps."""
    point = summary.default_point
    full = percent(point.test.final_correct / point.test.n)
    if _is_full_depth(point):
        return f"{summary.model_name} answers {full} of test rows right, each at full depth."
    return (
        f"{summary.model_name} answers {percent(point.test.accuracy)} of test rows right "
        f"for {percent(point.test.multiply_adds_share)} of the multiply-adds; at full depth it is {full}."
    )


def headline_details(summary: RunSummary) -> str:
    """Say where the headline's figures come from and how sure they are."""
    point = summary.default_point
    full = Proportion(point.test.final_correct, point.test.n)
    source = f"Operating point {point.name}, the default, on {point.test.n:,} test rows that chose nothing"
    ranges = f"Ranges are {percent(CONFIDENCE)} intervals."
    if _is_full_depth(point):
        return f"{source}: accuracy {percent_range(*full.interval)}. {ranges}"
    kept = Proportion(point.test.correct, point.test.n)
    spent = cost(summary, point)
    return (
        f"{source}: accuracy {percent_range(*kept.interval)}, at full depth {percent_range(*full.interval)}; "
        f"multiply-adds {percent_range(spent.low, spent.high)}; "
        f"{outcome_disagreement(point.test)} of answers differ from the full network's. {ranges}"
    )


def _is_full_depth(point: OperatingPointSummary) -> bool:
    return all(threshold is None for threshold in point.thresholds)


def generations(summary: RunSummary) -> str:
    """Say which generation was published and why, as the paired test on tune had it."""
    if len(summary.generations) == 1:
        return "There is one generation, which had no teacher."
    rows = f"{summary.chosen.tune.n:,} tune rows"
    if summary.chosen_generation == summary.generations[0].number:
        tests = ", ".join(p_value(each.p_value) for each in summary.generations[1:])
        return (
            f"Generation {summary.chosen_generation} was published: on {rows} no later one was clearly "
            f"better (paired one-sided tests, p {tests}; below {summary.promotion_level:.3g} is asked). "
            f"{_attainable(summary)}"
        )
    return (
        f"Generation {summary.chosen_generation} was published: on {rows} it was clearly better than the "
        f"one promoted before (paired one-sided test, p {p_value(summary.chosen.p_value)})."
    )


def _attainable(summary: RunSummary) -> str:
    """Say where the first generation erred so rarely that no later one could have been promoted."""
    tune = summary.generations[0].tune
    smallest = 0.5 ** (tune.n - tune.successes)
    if smallest < summary.promotion_level:
        return ""
    return (
        f"It errs on {tune.n - tune.successes} of them, so not even a perfect one could get below "
        f"{p_value(smallest)}: such a split is too small to tell."
    )


def claim(summary: RunSummary) -> str:
    """Say whether each generation beat the one before on test, the claim of Born-Again networks."""
    shares = [each.test_E[-1].share for each in summary.generations]
    if len(shares) == 1:
        return ""
    rising = all(later > earlier for earlier, later in pairwise(shares))
    held = "each generation was better than the one before" if rising else "not every generation gained"
    return (
        f"On {summary.generations[0].test_E[-1].n:,} test rows {held}: "
        f"{', '.join(percent(share) for share in shares)} at the final exit. "
        "One run with one seed settles no claim; the intervals say how little."
    )


def ensemble(summary: RunSummary) -> str:
    """Say what all generations together give at the final exit."""
    if not summary.ensemble_E:
        return ""
    count = len(summary.generations)
    return (
        f"The mean of all {count} networks has {proportion(summary.ensemble_E[-1])} right at its final exit, "
        f"for {count} times the cost."
    )


BASELINE_NAMES = {
    BACKBONE: "the backbone without early exits",
    SMALLER: "a narrower network without exits",
    SMALLER_TAUGHT: "the narrower one, taught by the published generation",
}


def baselines(summary: RunSummary) -> str:
    """Say whether leaving early beat smaller networks that cost the same."""
    point = summary.default_point.name
    verdicts = []
    for each in summary.baselines:
        over = each.beaten_by
        verdicts.append(f"{_verdict(over)} {BASELINE_NAMES[each.name]} ({gain(over)} points)")
    return f"{point} {'; '.join(verdicts)}: paired on the same test rows, with 95 % intervals."


def _verdict(over: Estimate) -> str:
    if over.low > 0:
        return "beats"
    return "is beaten by" if over.high < 0 else "cannot be told from"


def certificate(point: OperatingPointSummary, certify_rows: int) -> str:
    """Say in plain words what is promised of a point, or why nothing is."""
    if point.goal is None or point.certified is None:
        return "Every row goes to the final exit: the answer is the full network's by definition."
    if point.certified.certificate is None:
        return f"Certified nothing faster, so it equals exact: {_refusal(point, point.goal, certify_rows)}"
    promise = point.certified.certificate
    return (
        f"On data like the certify split, at most {exactly(promise.epsilon)} of answers differ from the "
        f"full network's, with {exactly(1 - promise.delta)} confidence. It promises agreement, not "
        f"correctness. Seen: {promise.disagreements} of {promise.n:,} certify rows differ; "
        f"{allowed_disagreements(promise.n, promise.epsilon, promise.delta)} were allowed."
    )


def _refusal(point: OperatingPointSummary, goal: Goal, certify_rows: int) -> str:
    allowed = allowed_disagreements(certify_rows, goal.epsilon, goal.delta)
    asked = f"at most {exactly(goal.epsilon)} with {exactly(1 - goal.delta)} confidence"
    if allowed < 0:
        return f"{certify_rows:,} certify rows are too few to promise {asked}, whatever they show."
    if point.certified is None or not point.certified.walked:
        return (
            f"no faster row of the path loses at most {percent(goal.max_accuracy_loss)} of accuracy on tune."
        )
    first = point.certified.walked[0].outcome
    return (
        f"the safest faster row already differed on {first.disagreements} of {first.n:,} certify rows, "
        f"where {asked} allows {allowed}."
    )


def joint_confidence(summary: RunSummary) -> str:
    """Say with what confidence all certificates hold together: at the sum of their deltas."""
    promises = [
        point.certified.certificate
        for point in summary.operating_points
        if point.certified is not None and point.certified.certificate is not None
    ]
    if len(promises) < 2:
        return ""
    together = percent(max(0.0, 1 - sum(promise.delta for promise in promises)))
    return f"Each certificate holds alone; the {len(promises)} together hold with {together} confidence."
