"""Sentences of a run's report. Each figure has its split, its number of rows and its interval.

`training.release.promises` has the sentences on certificates.
"""

from itertools import pairwise

from training.exits.evaluate import EvaluationCounts
from training.exits.intervals import CONFIDENCE, Estimate, Proportion, mean
from training.pipeline.baselines import BACKBONE, SMALLER, SMALLER_TAUGHT
from training.release.summary import OperatingPointSummary, RunSummary
from training.reporting.numerals import gain, measured, p_value, percent, percent_range, proportion


def cost(summary: RunSummary, point: OperatingPointSummary) -> Estimate:
    """Estimate the mean multiply-adds of a test row at a point, as a share of full depth."""
    return mean(summary.cost_shares, point.test.exit_counts)


def outcome_accuracy(outcome: EvaluationCounts) -> str:
    """Format a point's accuracy with its interval."""
    return proportion(Proportion(outcome.correct, outcome.n))


def outcome_disagreement(outcome: EvaluationCounts) -> str:
    """Format the share of answers that differ from the final exit's, with its interval."""
    return proportion(Proportion(outcome.disagreements, outcome.n))


def exit_shares(outcome: EvaluationCounts) -> list[str]:
    """Format the share of rows that left at each exit, with its interval."""
    return [proportion(Proportion(count, outcome.n)) for count in outcome.exit_counts]


def headline(summary: RunSummary) -> str:
    """State accuracy and cost of the default point, compared with full depth."""
    point = summary.default_point
    full = measured(point.test.final_correct / point.test.n)
    if point.is_exact:
        return (
            f"{summary.model_name} saves nothing: {point.name} answers {full} of test rows correctly, "
            "all at full depth."
        )
    return (
        f"{summary.model_name} answers {measured(point.test.accuracy)} of test rows correctly "
        f"with {measured(point.test.multiply_adds_share)} of the multiply-adds. Full depth reaches {full}."
    )


def headline_details(summary: RunSummary) -> str:
    """State the data and the intervals of the headline's figures."""
    point = summary.default_point
    full = Proportion(point.test.final_correct, point.test.n)
    source = f"Operating point {point.name}, the default, on {point.test.n:,} test rows that no choice used"
    ranges = f"Ranges are {percent(CONFIDENCE)} intervals."
    if point.is_exact:
        return f"{source}: accuracy {percent_range(*full.interval)}. {ranges}"
    kept = Proportion(point.test.correct, point.test.n)
    spent = cost(summary, point)
    return (
        f"{source}: accuracy {percent_range(*kept.interval)}, at full depth {percent_range(*full.interval)}; "
        f"multiply-adds {percent_range(spent.low, spent.high)}; "
        f"{outcome_disagreement(point.test)} of answers differ from the full network's. {ranges}"
    )


def generations(summary: RunSummary) -> str:
    """State which generation was published, with its paired test on the tune split."""
    if len(summary.generations) == 1:
        return "The recipe trains one generation, without a teacher."
    rows = f"{summary.chosen.tune.n:,} tune rows"
    if summary.chosen_generation == summary.generations[0].number:
        tests = ", ".join(p_value(generation.p_value) for generation in summary.generations[1:])
        return (
            f"Generation {summary.chosen_generation} was published. On {rows}, no later generation was "
            f"significantly better (paired one-sided tests, p {tests}; required: below "
            f"{summary.promotion_level:.3g}). {_unreachable_level(summary)}"
        )
    return (
        f"Generation {summary.chosen_generation} was published. On {rows}, it was significantly better than "
        f"the best one before (paired one-sided test, p {p_value(summary.chosen.p_value)})."
    )


def train_accuracy(summary: RunSummary) -> str:
    """State the accuracy of the final exit on train rows, for comparison with the tune rows."""
    return (
        f"Its final exit is right on {proportion(summary.train)} of {summary.train.n:,} train rows, without "
        f"augmentation, and on {proportion(summary.chosen.tune)} of the tune rows."
    )


def _unreachable_level(summary: RunSummary) -> str:
    """State if generation 0 has so few errors that no later one could have been significantly better."""
    tune = summary.generations[0].tune
    smallest = 0.5 ** (tune.n - tune.successes)
    if smallest < summary.promotion_level:
        return ""
    return (
        f"It is wrong on {tune.n - tune.successes} of them, so even a perfect generation would have "
        f"p {p_value(smallest)}. The split is too small for this test."
    )


def claim(summary: RunSummary) -> str:
    """State whether each generation was better than the previous one on the test split."""
    shares = [generation.test_E[-1].share for generation in summary.generations]
    if len(shares) == 1:
        return ""
    rising = all(later > earlier for earlier, later in pairwise(shares))
    verdict = (
        "each generation was better than the previous one" if rising else "not every generation was better"
    )
    return (
        f"On {summary.generations[0].test_E[-1].n:,} test rows, {verdict}: "
        f"{', '.join(measured(share) for share in shares)} at the final exit. "
        "One run with one seed does not prove a difference; see the intervals."
    )


def ensemble(summary: RunSummary) -> str:
    """State the accuracy of all generations together at the final exit."""
    if not summary.ensemble_E:
        return ""
    count = len(summary.generations)
    return (
        f"The mean of all {count} networks reaches {proportion(summary.ensemble_E[-1])} at the final exit, "
        f"at {count} times the cost."
    )


BASELINE_NAMES = {
    BACKBONE: "the backbone without early exits",
    SMALLER: "a narrower network without exits",
    SMALLER_TAUGHT: "the narrower network, taught by the published generation",
}


def baselines(summary: RunSummary) -> str:
    """State whether the default point is more accurate than networks without exits."""
    point = summary.default_point.name
    verdicts = []
    for baseline in summary.baselines:
        difference = baseline.beaten_by
        verdicts.append(f"{_verdict(difference)} {BASELINE_NAMES[baseline.name]} ({gain(difference)} points)")
    return f"{point} is {'; '.join(verdicts)}. Differences are paired on the same test rows."


def _verdict(difference: Estimate) -> str:
    if difference.low > 0:
        return "more accurate than"
    if difference.high < 0:
        return "less accurate than"
    return "not significantly different from"
