"""The teachers of a generation: the previous generation, or an ensemble of all previous ones.

Teachers run in eval mode without gradients, on the student's augmented batch. The target of exit k is a
mixture of the teachers' exit k, with weight `teaching_mix`, and their final exits.

Shapes: `E` exits, `B` rows, `K` classes, `M` members of a target.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.architectures.network import MultiExitNetwork
from training.born_again.rules import TeacherTarget


class Teachers:
    """Frozen networks of equal weight; the target is their mean."""

    def __init__(self, networks: Sequence[MultiExitNetwork], *, teaching_mix: float) -> None:
        self._networks = [network.eval().requires_grad_(False) for network in networks]
        self._teaching_mix = teaching_mix

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self._networks[0].heads[-1].classifier.out_features

    def targets(self, images_BCHW: Tensor) -> tuple[TeacherTarget, ...]:
        """Return each exit's target, in depth order."""
        with torch.no_grad():
            outputs = [network(images_BCHW) for network in self._networks]
        exits = len(outputs[0])
        return tuple(self._target(outputs, number) for number in range(exits))

    def _target(self, outputs: Sequence[Tensor], exit_number: int) -> TeacherTarget:
        """Mix (1 - m)·final exit + m·same exit of each teacher's logits_EBK."""
        mix, count = self._teaching_mix, len(outputs)
        final = [logits_EBK[-1] for logits_EBK in outputs]
        if mix == 0:
            return TeacherTarget(torch.stack(final), (1 / count,) * count)
        same = [logits_EBK[exit_number] for logits_EBK in outputs]
        if mix == 1:
            return TeacherTarget(torch.stack(same), (1 / count,) * count)
        return TeacherTarget(torch.stack(final + same), ((1 - mix) / count,) * count + (mix / count,) * count)
