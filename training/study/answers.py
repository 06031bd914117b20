"""What a study answers, each question in sentences made of its counts. A negative answer is a result.

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
    """Return whether every generation has more test rows right at an exit than the one before."""
    counts = [each.right[exit_number] for each in line]
    return all(later > earlier for earlier, later in pairwise(counts))


def rises_clearly(line: Sequence[StudyNetwork], exit_number: int = -1) -> bool:
    """Return whether every generation's gain over the one before has an interval above 0."""
    return all(each.over_teacher[exit_number].gain.low > 0 for each in line[1:])


def claim(record: StudyRecord) -> str:
    """State whether Acc(M1) < Acc(M2) < Acc(M3) held."""
    lines = list(record.lines())
    held = [f"`{rule}` with seed {seed}" for rule, seed, line in lines if rises(line)]
    clearly = sum(rises_clearly(line) for _, _, line in lines)
    chain = " < ".join(f"Acc(M{number + 1})" for number in range(record.study.generations))
    which = f": {', '.join(held)}" if held else ""
    return (
        f"{chain} held at the final exit in {len(held)} of {len(lines)} lines{which}. "
        f"In {clearly} of {len(lines)} was every step beyond its 95 % interval."
    )


def gains(record: StudyRecord, rule: str, generation: int, exit_number: int) -> list[Estimate]:
    """Return a generation's gain over generation 0 at an exit, a figure a seed."""
    return [line[generation].over_first[exit_number].gain for each, _, line in record.lines() if each == rule]


def mean_gain(record: StudyRecord, rule: str, generation: int, exit_number: int) -> float:
    """Return the mean over seeds."""
    return mean(each.value for each in gains(record, rule, generation, exit_number))


def by_exit(record: StudyRecord) -> Iterator[str]:
    """Yield at which exit a teacher helped most."""
    for rule in record.study.rules:
        last = record.study.generations - 1
        each = [mean_gain(record, rule, last, number) for number in range(record.exits)]
        most = max(range(record.exits), key=each.__getitem__)
        seeds = len(gains(record, rule, last, 0))
        said = " / ".join(points(value) for value in each)
        over = f"mean of {seeds} seeds" if seeds > 1 else "1 seed"
        verdict = f"most at {_the_exit(record, most)}" if each[most] > 0 else "at no exit"
        yield f"`{rule}`: {said} points from generation 0 to {last} ({over}), {verdict}."


def dark_knowledge(record: StudyRecord) -> Iterator[str]:
    """Yield what the teacher's probabilities hold beside the largest one."""
    for contrast in record.contrasts:
        said = " / ".join(gain(each.gain) for each in contrast.over)
        most = max(range(record.exits), key=lambda number: contrast.over[number].gain.value)
        clear = "above 0" if contrast.over[most].gain.low > 0 else "not clear of 0"
        yield (
            f"`{contrast.rule}` over `{contrast.than}`, generation {contrast.generation}, "
            f"seed {contrast.seed}: {said} points; most at {_the_exit(record, most)}, its interval {clear}."
        )


def ensembles(record: StudyRecord) -> str:
    """State what ensembles of generations gave."""
    whole = [each for each in record.ensembles if len(each.generations) == record.study.generations]
    of_lines = [each for each in whole if each.rule is not None]
    by_value = sorted(of_lines, key=lambda each: each.over_first[-1].gain.value)
    best, least = by_value[-1], by_value[0]
    said = (
        f"The mean of {record.study.generations} generations gains {points(least.over_first[-1].gain.value)} "
        f"({least.rule}, seed {least.seeds[0]}) to {gain(best.over_first[-1].gain)} points "
        f"({best.rule}, seed {best.seeds[0]}) at the final exit over its own generation 0"
    )
    control = [each for each in record.ensembles if each.rule is None]
    if control:
        said += (
            f"; as many networks of different seeds and no teacher gain "
            f"{gain(control[0].over_first[-1].gain)}, for the same cost"
        )
    return said + "."


def early_leaving(record: StudyRecord) -> str:
    """State whether a generation changed how many rows leave early, at equal certified risk."""
    later = [
        (line[0].points[BALANCED], each.points[BALANCED])
        for _, _, line in record.lines()
        for each in line[1:]
    ]
    cheaper = sum(after.multiply_adds_share < before.multiply_adds_share for before, after in later)
    change = mean(after.multiply_adds_share - before.multiply_adds_share for before, after in later)
    firsts = [record.first(seed).points[BALANCED].multiply_adds_share for seed in record.study.seeds]
    return (
        f"At `{BALANCED}`'s certified risk {cheaper} of {len(later)} later generations cost less than their "
        f"generation 0; the multiply-adds of a row change by {points(change)} points on average, where "
        f"generation 0 takes {percent(min(firsts))} to {percent(max(firsts))} by seed."
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
