"""What a run found, in sentences: each figure with its split, its n and its interval.

What its operating points promise is said in `training.release.promises`. Knows nothing of the page that
the sentences stand in.
"""

from itertools import pairwise

from training.exits.evaluate import EvaluationCounts
from training.exits.intervals import CONFIDENCE, Estimate, Proportion, mean
from training.release.summary import OperatingPointSummary, RunSummary
from training.reporting.numerals import gain, p_value, percent, percent_range, proportion
from training.run.baselines import BACKBONE, SMALLER, SMALLER_TAUGHT


def cost(summary: RunSummary, point: OperatingPointSummary) -> Estimate:
    """Estimate a point's mean multiply-adds of a test row, as a share of full depth."""
    return mean(summary.cost_shares, point.test.exit_counts)


def outcome_accuracy(outcome: EvaluationCounts) -> str:
    """State a point's accuracy with its interval."""
    return proportion(Proportion(outcome.correct, outcome.n))


def outcome_disagreement(outcome: EvaluationCounts) -> str:
    """State how often a point's answers differ from the final exit's, with the interval."""
    return proportion(Proportion(outcome.disagreements, outcome.n))


def exit_shares(outcome: EvaluationCounts) -> list[str]:
    """Return the share of rows that left at each exit, with its interval."""
    return [proportion(Proportion(count, outcome.n)) for count in outcome.exit_counts]


def headline(summary: RunSummary) -> str:
    """State the result in one sentence: what the default point saves and what it keeps."""
    point = summary.default_point
    full = percent(point.test.final_correct / point.test.n)
    if _is_full_depth(point):
        return f"{summary.model_name} answers {full} of test rows right, each at full depth."
    return (
        f"{summary.model_name} answers {percent(point.test.accuracy)} of test rows right "
        f"for {percent(point.test.multiply_adds_share)} of the multiply-adds; at full depth it is {full}."
    )


def headline_details(summary: RunSummary) -> str:
    """State where the headline's figures come from and how sure they are."""
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
    """State which generation was published and why, as the paired test on tune had it."""
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
    """State where the first generation erred so rarely that no later one could have been promoted."""
    tune = summary.generations[0].tune
    smallest = 0.5 ** (tune.n - tune.successes)
    if smallest < summary.promotion_level:
        return ""
    return (
        f"It errs on {tune.n - tune.successes} of them, so not even a perfect one could get below "
        f"{p_value(smallest)}: such a split is too small to tell."
    )


def claim(summary: RunSummary) -> str:
    """State whether each generation beat the one before on test, the claim of Born-Again networks."""
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
    """State what all generations together give at the final exit."""
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
    """State whether leaving early beat smaller networks that cost the same."""
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
