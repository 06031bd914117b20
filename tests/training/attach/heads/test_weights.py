import re

import numpy as np
import pytest
import torch

from training.attach.heads.weights import HeadWeights


def layer(outputs: int, inputs: int, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(outputs)
    return random.normal(0, 1, (outputs, inputs)).astype(dtype), random.normal(0, 1, outputs).astype(dtype)


def test_layers_have_relu_between_them_and_none_after_the_last() -> None:
    head = HeadWeights((layer(5, 4), layer(3, 5)))
    pooled = np.random.default_rng(0).normal(0, 1, (7, 4)).astype(np.float32)

    first, last = (torch.nn.Linear(4, 5), torch.nn.Linear(5, 3))
    for linear, (weight, bias) in zip((first, last), head.layers, strict=True):
        linear.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    expected = last(torch.relu(first(torch.from_numpy(pooled)))).detach().numpy()

    np.testing.assert_allclose(head.logits(pooled), expected, atol=1e-5)
    assert (expected < 0).any()


def test_a_head_has_widths_and_a_cost() -> None:
    head = HeadWeights((layer(5, 4), layer(3, 5)))

    assert (head.inputs, head.classes) == (4, 3)
    assert (head.multiply_adds, head.parameters) == (4 * 5 + 5 * 3, 4 * 5 + 5 + 5 * 3 + 3)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((), "head: expected at least 1 layer, got 0"),
        ((layer(5, 4, np.float64),), "layer 0: expected FP32, got float64 and float64"),
        (
            ((layer(5, 4)[0], layer(3, 4)[1]),),
            "layer 0: expected weight [out, in] and bias [out], got [5, 4] and [3]",
        ),
        ((layer(5, 4), layer(3, 6)), "layer 1: expected 5 inputs, the outputs of layer 0, got 6"),
    ],
)
def test_layers_that_do_not_fit_are_refused(
    layers: tuple[tuple[np.ndarray, np.ndarray], ...], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        HeadWeights(layers)
