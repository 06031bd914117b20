"""The frozen networks that teach a generation: one, or an ensemble of all before it.

In eval mode, without gradients, on the very batch that the student sees. Every exit has its target:
the teachers' final exits, mixed by `teaching_mix` with what the teachers say at that same exit.
Knows nothing of rules.

Shapes: `E` exits, `B` rows, `K` classes, `M` members of a target.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.architectures.network import MultiExitNetwork
from training.born_again.rules import TeacherTarget


class Teachers:
    """Teachers of equal weight, their mean being the target."""

    def __init__(self, networks: Sequence[MultiExitNetwork], *, teaching_mix: float) -> None:
        self._networks = [network.eval().requires_grad_(False) for network in networks]
        self._teaching_mix = teaching_mix

    def targets(self, images_BCHW: Tensor) -> tuple[TeacherTarget, ...]:
        """Return each exit's target, in depth order."""
        with torch.no_grad():
            said = [network(images_BCHW) for network in self._networks]
        exits = len(said[0])
        return tuple(self._target(said, number) for number in range(exits))

    def _target(self, said: Sequence[Tensor], exit_number: int) -> TeacherTarget:
        """Mix (1 - m)·final + m·same exit over logits_EBK of each teacher."""
        mix, count = self._teaching_mix, len(said)
        final = [logits_EBK[-1] for logits_EBK in said]
        if mix == 0:
            return TeacherTarget(torch.stack(final), (1 / count,) * count)
        same = [logits_EBK[exit_number] for logits_EBK in said]
        if mix == 1:
            return TeacherTarget(torch.stack(same), (1 / count,) * count)
        return TeacherTarget(torch.stack(final + same), ((1 - mix) / count,) * count + (mix / count,) * count)
