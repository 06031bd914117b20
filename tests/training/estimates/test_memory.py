"""Estimates of memory, and the refusal of recipes that need too much."""

import resource
from pathlib import Path

import pytest

from training.__main__ import MISTAKE, main
from training.architectures.network import MultiExitNetwork
from training.data.splits import Dataset
from training.errors import RecipeError
from training.estimates.memory import MemoryEstimate, check_memory, estimate_memory
from training.pipeline.from_recipe import make_network
from training.recipe.recipe import Recipe


def changed(recipe: Recipe, section: str, **changes: object) -> Recipe:
    """Return the recipe with changed values in one section."""
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=changes)})


def parameters(network: MultiExitNetwork) -> int:
    return sum(each.numel() for each in network.parameters())


def test_weights_gradients_moments_and_earlier_generations_are_counted(
    tiny_recipe: Recipe, digits: Dataset
) -> None:
    one = changed(tiny_recipe, "generations", count=1)
    three = changed(tiny_recipe, "generations", count=3)
    network = make_network(tiny_recipe, digits)

    assert estimate_memory(one, digits).weights == 4 * 4 * parameters(network)
    assert estimate_memory(three, digits).weights == 6 * 4 * parameters(network)


def test_activations_grow_with_the_rows_of_a_batch(tiny_recipe: Recipe, digits: Dataset) -> None:
    small = estimate_memory(changed(tiny_recipe, "schedule", batch_rows=64), digits)
    large = estimate_memory(changed(tiny_recipe, "schedule", batch_rows=128), digits)

    assert large.activations == 2 * small.activations > 0
    assert large.weights == small.weights


def test_the_total_is_compared_with_the_limit(tiny_recipe: Recipe, digits: Dataset) -> None:
    estimate = estimate_memory(tiny_recipe, digits)

    assert estimate == MemoryEstimate(estimate.weights, estimate.activations, estimate.data)
    assert estimate.total == estimate.weights + estimate.activations + estimate.data + estimate.process
    check_memory(tiny_recipe, digits, estimate.total)
    with pytest.raises(
        RecipeError,
        match=rf"^memory: expected at most {estimate.total - 1} bytes, got an estimate of {estimate.total}: ",
    ):
        check_memory(tiny_recipe, digits, estimate.total - 1)


@pytest.mark.parametrize(
    "assignments",
    [
        ("architecture.width=[4096, 4096, 4096]", "architecture.depth=64"),
        ("architecture.width=4096", "architecture.depth=64"),
        ("generations.count=1000000000",),
    ],
)
def test_an_absurd_recipe_is_refused_before_it_allocates_memory(
    tiny_recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], assignments: tuple[str, ...]
) -> None:
    options = [argument for each in assignments for argument in ("--set", each)]
    folders = ["--output", str(tmp_path / "run"), "--model-repository", str(tmp_path / "models")]

    code = main(["run", str(tiny_recipe_file), *options, *folders, "--max-memory-bytes", str(2**32)])

    assert code == MISTAKE
    complaint = capsys.readouterr().err
    assert complaint.startswith(
        f"offramp: error: memory: expected at most {2**32} bytes, got an estimate of "
    )
    assert complaint.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_estimate_does_not_allocate_the_network(tiny_recipe: Recipe, digits: Dataset) -> None:
    wide = changed(tiny_recipe, "architecture", width=(1024,), depth=(16,))
    estimate_memory(tiny_recipe, digits)  # imports modules before memory is measured
    before = peak_bytes()

    estimate = estimate_memory(wide, digits)

    assert estimate.weights > 2**33
    assert peak_bytes() - before < 2**26


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
