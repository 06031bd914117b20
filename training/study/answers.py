"""Sentences that answer the questions of a study, from its counts.

Shapes: `E` exits.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from statistics import mean

from training.exits.intervals import Estimate, Proportion
from training.exits.intervals import mean as mean_of_counts
from training.reporting.numerals import exit_name, gain, percent, points
from training.study.record import StudyNetwork, StudyPoint, StudyRecord

BALANCED = "balanced"


def rises(line: Sequence[StudyNetwork], exit_number: int = -1) -> bool:
    """Return whether every generation is more accurate on test than the previous one at an exit."""
    counts = [each.right[exit_number] for each in line]
    return all(later > earlier for earlier, later in pairwise(counts))


def rises_clearly(line: Sequence[StudyNetwork], exit_number: int = -1) -> bool:
    """Return whether the interval of every generation's gain over the previous one is above 0."""
    return all(each.over_teacher[exit_number].gain.low > 0 for each in line[1:])


def claim(record: StudyRecord) -> str:
    """State in how many lines Acc(M1) < Acc(M2) < Acc(M3) holds."""
    lines = list(record.lines())
    held = [f"`{rule}` with seed {seed}" for rule, seed, line in lines if rises(line)]
    significant = sum(rises_clearly(line) for _, _, line in lines)
    chain = " < ".join(f"Acc(M{number + 1})" for number in range(record.study.generations))
    which = f": {', '.join(held)}" if held else ""
    return (
        f"{chain} holds at the final exit in {len(held)} of {len(lines)} lines{which}. "
        f"In {significant} of {len(lines)} lines, the 95 % interval of every gain is above 0."
    )


def gains(record: StudyRecord, rule: str, generation: int, exit_number: int) -> list[Estimate]:
    """Return a generation's gain over generation 0 at an exit, for each seed."""
    return [line[generation].over_first[exit_number].gain for each, _, line in record.lines() if each == rule]


def mean_gain(record: StudyRecord, rule: str, generation: int, exit_number: int) -> float:
    """Compute a generation's mean gain over seeds."""
    return mean(each.value for each in gains(record, rule, generation, exit_number))


def by_exit(record: StudyRecord) -> Iterator[str]:
    """Yield for each rule the gains by exit and the exit with the largest gain."""
    for rule in record.study.rules:
        last = record.study.generations - 1
        gains_E = [mean_gain(record, rule, last, number) for number in range(record.exits)]
        largest = max(range(record.exits), key=gains_E.__getitem__)
        seeds = len(gains(record, rule, last, 0))
        figures = " / ".join(points(value) for value in gains_E)
        basis = f"mean of {seeds} seeds" if seeds > 1 else "1 seed"
        verdict = f"most at {_the_exit(record, largest)}" if gains_E[largest] > 0 else "no gain at any exit"
        yield f"`{rule}`: {figures} points from generation 0 to {last} ({basis}), {verdict}."


def dark_knowledge(record: StudyRecord) -> Iterator[str]:
    """Yield the gains from the teacher's probabilities other than the largest."""
    for contrast in record.contrasts:
        figures = " / ".join(gain(each.gain) for each in contrast.over)
        largest = max(range(record.exits), key=lambda number: contrast.over[number].gain.value)
        verdict = "is above 0" if contrast.over[largest].gain.low > 0 else "contains 0"
        yield (
            f"`{contrast.rule}` over `{contrast.than}`, generation {contrast.generation}, "
            f"seed {contrast.seed}: {figures} points. The largest gain is at {_the_exit(record, largest)}; "
            f"its interval {verdict}."
        )


def ensembles(record: StudyRecord) -> str:
    """State the gains of ensembles of generations."""
    complete = [each for each in record.ensembles if len(each.generations) == record.study.generations]
    of_lines = [each for each in complete if each.rule is not None]
    by_value = sorted(of_lines, key=lambda each: each.over_first[-1].gain.value)
    best, least = by_value[-1], by_value[0]
    text = (
        f"At the final exit, the mean of {record.study.generations} generations gains "
        f"{points(least.over_first[-1].gain.value)} ({least.rule}, seed {least.seeds[0]}) to "
        f"{gain(best.over_first[-1].gain)} points ({best.rule}, seed {best.seeds[0]}) over its generation 0."
    )
    control = [each for each in record.ensembles if each.rule is None]
    if control:
        text += (
            f" At the same cost, the mean of {len(control[0].seeds)} networks with different seeds and no "
            f"teacher gains {gain(control[0].over_first[-1].gain)} points."
        )
    return text


def early_leaving(record: StudyRecord) -> str:
    """State how generations change the cost of a row at the same certified risk."""
    later = [
        (line[0].points[BALANCED], each.points[BALANCED])
        for _, _, line in record.lines()
        for each in line[1:]
    ]
    cheaper = sum(after.multiply_adds_share < before.multiply_adds_share for before, after in later)
    change = mean(after.multiply_adds_share - before.multiply_adds_share for before, after in later)
    firsts = [record.first(seed).points[BALANCED].multiply_adds_share for seed in record.study.seeds]
    return (
        f"At the certified risk of `{BALANCED}`, {cheaper} of {len(later)} later generations cost less than "
        f"their generation 0. Generation 0 takes {percent(min(firsts))} to {percent(max(firsts))} of the "
        f"multiply-adds, depending on the seed. Later generations change this by {points(change)} points on "
        "average."
    )


def cost(record: StudyRecord, point: StudyPoint) -> Estimate:
    """Estimate the mean multiply-adds of a row at an operating point, as a share of full depth."""
    shares = [each / sum(record.multiply_adds) for each in accumulate(record.multiply_adds)]
    return mean_of_counts(shares, point.exit_counts)


def accuracy(record: StudyRecord, network: StudyNetwork, exit_number: int) -> Proportion:
    """Return a network's test accuracy at an exit."""
    return Proportion(network.right[exit_number], record.n)


def _the_exit(record: StudyRecord, number: int) -> str:
    name = exit_name(number, record.exits)
    return f"the {name}" if number == record.exits - 1 else name
