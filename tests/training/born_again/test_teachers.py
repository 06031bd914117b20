"""Targets of teachers, compared with mixtures of their softmax outputs in NumPy."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.architectures.head_settings import HeadSettings
from training.architectures.network import MultiExitNetwork, NetworkOptions, PixelNormalisation
from training.architectures.registry import build
from training.born_again.teachers import Teachers

EXITS, ROWS, CLASSES = 3, 6, 5
FINAL = EXITS - 1
Floats = NDArray[np.float64]
IMAGES_BCHW = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (ROWS, 1, 8, 8), dtype=np.uint8))


def teacher(seed: int) -> MultiExitNetwork:
    torch.manual_seed(seed)
    network = build(
        "deep_supervision",
        PixelNormalisation([127.0], [74.0]),
        NetworkOptions(
            image_shape=(1, 8, 8),
            classes=CLASSES,
            width=(2,),
            depth=(1,) * EXITS,
            heads=(HeadSettings(grid=2),) * EXITS,
        ),
    )
    network(IMAGES_BCHW)  # in training mode, to change the running statistics
    with torch.no_grad():
        for head in network.heads:
            head.classifier.weight *= 4  # confident outputs, for which a mean of logits would differ
    return network


def softmax(network: MultiExitNetwork) -> Floats:
    with torch.no_grad():
        logits_EBK = network.eval()(IMAGES_BCHW).double().numpy()
    exponentials = np.exp(logits_EBK - logits_EBK.max(axis=2, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=2, keepdims=True))


def probabilities(teachers: Teachers) -> Floats:
    return np.stack([target.probabilities().numpy() for target in teachers.targets(IMAGES_BCHW)])


def test_one_teachers_final_logits_are_bitwise_every_exits_target() -> None:
    network = teacher(0)
    targets = Teachers([network], teaching_mix=0.0).targets(IMAGES_BCHW)
    with torch.no_grad():
        final_BK = network(IMAGES_BCHW)[FINAL]
    assert len(targets) == EXITS
    for target in targets:
        assert target.weight_M == (1.0,)
        assert torch.equal(target.logits_MBK, final_BK[None])


def test_a_mix_of_1_is_the_teachers_same_exit() -> None:
    network = teacher(0)
    targets = Teachers([network], teaching_mix=1.0).targets(IMAGES_BCHW)
    with torch.no_grad():
        logits_EBK = network(IMAGES_BCHW)
    for target, logits_BK in zip(targets, logits_EBK, strict=True):
        assert target.weight_M == (1.0,)
        assert torch.equal(target.logits_MBK, logits_BK[None])


def test_a_mix_of_three_tenths_takes_that_share_from_the_same_exit() -> None:
    network = teacher(0)
    said_EBK = softmax(network)
    got_EBK = probabilities(Teachers([network], teaching_mix=0.3))
    for number in range(EXITS):
        by_hand_BK = 0.7 * said_EBK[FINAL] + 0.3 * said_EBK[number]
        np.testing.assert_allclose(got_EBK[number], by_hand_BK, rtol=1e-4, atol=1e-7)
    assert np.abs(got_EBK[0] - said_EBK[FINAL]).max() > 0.01


def test_two_teachers_are_the_mean_of_their_final_softmaxes() -> None:
    first, second = teacher(0), teacher(1)
    by_hand_BK = (softmax(first)[FINAL] + softmax(second)[FINAL]) / 2
    for got_BK in probabilities(Teachers([first, second], teaching_mix=0.0)):
        np.testing.assert_allclose(got_BK, by_hand_BK, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("mix", [0.3, 1.0])
def test_two_teachers_are_also_averaged_at_the_same_exit(mix: float) -> None:
    first, second = teacher(0), teacher(1)
    mean_EBK = (softmax(first) + softmax(second)) / 2
    got_EBK = probabilities(Teachers([first, second], teaching_mix=mix))
    for number in range(EXITS):
        by_hand_BK = (1 - mix) * mean_EBK[FINAL] + mix * mean_EBK[number]
        np.testing.assert_allclose(got_EBK[number], by_hand_BK, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_weights_of_a_target_add_up_to_1(mix: float, count: int) -> None:
    teachers = Teachers([teacher(seed) for seed in range(count)], teaching_mix=mix)
    for target in teachers.targets(IMAGES_BCHW):
        assert len(target.weight_M) == len(target.logits_MBK)
        assert sum(target.weight_M) == pytest.approx(1, abs=1e-12)


def test_teachers_are_in_eval_mode_and_need_no_gradient() -> None:
    network = teacher(0).train()
    targets = Teachers([network], teaching_mix=0.3).targets(IMAGES_BCHW)
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(target.logits_MBK.requires_grad for target in targets)


def test_teaching_does_not_change_a_teacher() -> None:
    network = teacher(0).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    Teachers([network], teaching_mix=0.3).targets(IMAGES_BCHW)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
