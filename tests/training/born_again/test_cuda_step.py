"""The captured step on CUDA trains like the step without a graph."""

import copy
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from training.born_again import cuda_step
from training.born_again.cuda_step import CudaStep
from training.born_again.generations import TrainedGeneration, seeded
from training.born_again.precision import Precision
from training.born_again.reproducible import reproducible
from training.data.splits import Dataset
from training.pipeline.from_recipe import make_fit, make_network
from training.recipe.recipe import Recipe

CUDA = torch.device("cuda")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def recipe(optimizer: str, train: str = "joint") -> Recipe:
    return Recipe.model_validate(
        {
            "model": "captured",
            "dataset": {"name": "digits", "test_rows": 360, "certify_rows": 200},
            "architecture": {"width": 8},
            "augmentation": {"flip": True, "crop_padding": 1, "erase_probability": 0.5},
            "exits": {"train": train},
            "deep_supervision": {"exit_weight_start": 0.1},
            "generations": {"count": 2},
            "schedule": {"epochs": 3, "optimizer": optimizer, "learning_rate": 0.01, "precision": "fp32"},
        }
    )


def trained_weights(settings: Recipe, digits: Dataset, *, is_bf16: bool) -> Mapping[str, Tensor]:
    """Train with a teacher; return the weights."""
    precision = Precision(CUDA, is_bf16=is_bf16)
    teacher = TrainedGeneration(0, seeded(lambda: make_network(settings, digits), 1).eval(), ())
    student = seeded(lambda: make_network(settings, digits), 2)
    with reproducible(threads=1, device=CUDA):
        fit = make_fit(1, student, [teacher], digits.train, digits.tune, settings, precision)
        for _ in range(fit.epochs):
            fit.run_epoch(lambda: None)
    return fit.checkpoint().network


@pytest.mark.parametrize(
    ("optimizer", "train", "precision"),
    [("adamw", "joint", "fp32"), ("sgd", "frozen-then-joint", "fp32"), ("sgd", "frozen-heads", "bf16")],
)
def test_a_captured_step_trains_like_one_without_a_graph(
    optimizer: str, train: str, precision: str, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = recipe(optimizer, train)
    captured = trained_weights(settings, digits, is_bf16=precision == "bf16")
    monkeypatch.setattr(cuda_step, "WARM_UP_STEPS", 10**9)
    expected = trained_weights(settings, digits, is_bf16=precision == "bf16")
    for name, tensor in expected.items():
        torch.testing.assert_close(captured[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_restored_fit_captures_its_step_again(digits: Dataset) -> None:
    settings, precision = recipe("sgd"), Precision(CUDA, is_bf16=False)
    student = seeded(lambda: make_network(settings, digits), 2)
    with reproducible(threads=1, device=CUDA):
        fit = make_fit(0, student, [], digits.train, digits.tune, settings, precision)
        fit.run_epoch(lambda: None)
        after_one = copy.deepcopy(fit.checkpoint())
        fit.run_epoch(lambda: None)
        expected = copy.deepcopy(fit.checkpoint().network)
        fit.restore(after_one)
        fit.run_epoch(lambda: None)
    for name, tensor in expected.items():
        torch.testing.assert_close(fit.checkpoint().network[name], tensor, rtol=1e-3, atol=1e-4)


def test_the_step_runs_in_the_warm_up_in_the_capture_and_for_batches_of_another_size() -> None:
    sizes: list[int] = []

    def double(inputs: Mapping[str, Tensor]) -> Tensor:
        sizes.append(len(inputs["rows"]))
        return 2 * inputs["rows"].sum()

    step = CudaStep(CUDA)
    losses = [step.run(double, {"rows": torch.arange(float(size))}).item() for size in [4, 4, 4, 4, 3, 4, 5]]
    assert losses == [2 * sum(range(size)) for size in [4, 4, 4, 4, 3, 4, 5]]
    assert sizes == [4, 4, 4, 4, 3, 5]  # the sixth batch is a replay
