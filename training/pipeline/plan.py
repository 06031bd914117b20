"""The plan of a run, shown before it trains: rows, network, generations and the expected duration."""

from collections.abc import Iterator

from training.data.splits import Dataset
from training.estimates.training_time import estimate_time
from training.exits.cost import multiply_adds
from training.exits.evaluate import cumulative
from training.pipeline.folder import RunPlan
from training.pipeline.from_recipe import make_trained_network
from training.recipe.recipe import Recipe
from training.reporting.numerals import duration, exit_name, plain, quantity

SMALLEST_TRAIN_SHARE = 0.5
"""With a smaller share of the rows in the train split, the run prints a warning."""


def make_plan(recipe: Recipe, dataset: Dataset) -> RunPlan:
    """Build the plan of a run; measures the duration of a few steps."""
    network = make_trained_network(recipe, dataset)
    return RunPlan(
        split_rows={name: len(split) for name, split in dataset.splits.items()},
        classes=len(dataset.labels),
        image_shape=dataset.image_shape,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        multiply_adds=cumulative(multiply_adds(network, dataset.image_shape)),
        exits_are_attached=recipe.exits.train == "frozen",
        generations=recipe.generations.count,
        epochs=recipe.schedule.epochs,
        expected_seconds=round(estimate_time(recipe, dataset).total_seconds, 1),
        repeats=tuple(dataset.repeats.lines()),
        warnings=tuple(_warnings(dataset)),
    )


def _warnings(dataset: Dataset) -> Iterator[str]:
    """Yield a warning if most of the rows that could be trained on are in other splits."""
    rows = {name: len(split) for name, split in dataset.splits.items()}
    is_test_official = dataset.test_rows is None
    available = sum(rows.values()) - (rows["test"] if is_test_official else 0)
    if rows["train"] < SMALLEST_TRAIN_SHARE * available:
        others = (
            "temperature, tune and certify" if is_test_official else "temperature, tune, certify and test"
        )
        yield (
            f"only {rows['train']:,} of {available:,} rows train the network; the {others} splits take the "
            "others. Try smaller splits in [dataset], or more rows"
        )


def plan_facts(plan: RunPlan) -> dict[str, str]:
    """Return the parts of a plan as text, by title."""
    splits = " · ".join(f"{name} {rows:,}" for name, rows in plan.split_rows.items())
    facts = {
        "rows": splits,
        "images": f"{' x '.join(map(str, plan.image_shape))}, {plan.classes} classes",
        "network": f"{quantity(plan.parameters)} parameters; multiply-adds of a row: {_cost(plan)}",
        "training": f"{_count(plan.generations, 'generation')} of {_count(plan.epochs, 'epoch')}",
        "duration": f"about {duration(plan.expected_seconds)} for the whole run, estimated from a few steps",
    }
    if plan.repeats:
        facts["repeats"] = "; ".join(plan.repeats)
    return facts


def plan_lines(plan: RunPlan) -> Iterator[str]:
    """Yield the lines of a plan and its warnings for the console."""
    facts = plan_facts(plan)
    width = max(map(len, facts))
    for title, text in facts.items():
        yield plain(f"{title:<{width}}  {text}")
    for warning in plan.warnings:
        yield f"warning: {warning}"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _cost(plan: RunPlan) -> str:
    if plan.exits_are_attached:
        return f"{quantity(plan.multiply_adds[-1])}; early exits are chosen after training"
    exits = len(plan.multiply_adds)
    return " · ".join(
        f"{exit_name(number, exits)} {quantity(cost)}" for number, cost in enumerate(plan.multiply_adds)
    )
