"""The loss of one generation: labels, teachers, the network's own final exit, and hints.

Shapes: `B` rows of a batch, `E` exits, `K` classes, `C H W` image.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from training.architectures.network import MultiExitNetwork
from training.born_again.hints import Hints
from training.born_again.losses import composed_loss
from training.born_again.precision import Precision
from training.born_again.rules import RULES, Lesson, RuleSettings
from training.born_again.schedule import ramp
from training.born_again.teachers import Teachers
from training.recipe.settings import DeepSupervisionSection, GenerationsSection


class Objective:
    """The loss that a generation minimises. Generation 0 has no teachers."""

    def __init__(
        self,
        supervision: DeepSupervisionSection,
        generations: GenerationsSection,
        *,
        teachers: Teachers | None = None,
        hints: Hints | None = None,
        noise_seed: int = 0,
    ) -> None:
        self._supervision = supervision
        self._rule = RULES[generations.rule]
        self._rule_settings = RuleSettings(generations.alpha, generations.distillation_temperature)
        self._teachers = teachers
        self.hints = hints
        self._noise_seed = noise_seed

    def loss(
        self,
        network: MultiExitNetwork,
        images_BCHW: Tensor,
        truth_B: Tensor,
        inputs: Mapping[str, Tensor],
        precision: Precision,
    ) -> Tensor:
        """Compute the loss of a batch from the `inputs` of its step."""
        supervision = self._supervision
        with precision.autocast():
            logits_EBK, embeddings = network.answer(
                images_BCHW, gradient_equilibrium=supervision.gradient_equilibrium
            )
            loss_of_exit = self._loss_of_exit(images_BCHW, truth_B, logits_EBK, inputs)
        loss = composed_loss(
            logits_EBK,
            loss_of_exit,
            exit_weight=inputs["exit_weight"],
            distillation_share=supervision.distillation_share,
            distillation_temperature=supervision.distillation_temperature,
        )
        has_early_exits = len(logits_EBK) > 1
        if self.hints is not None and has_early_exits:
            with precision.autocast():
                loss = loss + supervision.hint_weight * self.hints(embeddings)
        return loss

    def inputs(self, step: int, steps: int, rows: int) -> dict[str, Tensor]:
        """Return the CPU tensors that the loss needs at step 0 to steps - 1.

        `exit_weight` is the weight of each early exit's loss. `noise_BK`, only with teachers, is sampled by a
        separate generator, so that all rules see the same order of batches.
        """
        start, end = self._supervision.exit_weight_start, self._supervision.exit_weight
        weight = end if start is None else ramp(step, steps, start=start, end=end)
        inputs = {"exit_weight": torch.tensor(weight)}
        if self._teachers is not None:
            generator = torch.Generator().manual_seed(self._noise_seed + step)
            inputs["noise_BK"] = torch.rand((rows, self._teachers.classes), generator=generator)
        return inputs

    def _loss_of_exit(
        self, images_BCHW: Tensor, truth_B: Tensor, logits_EBK: Tensor, inputs: Mapping[str, Tensor]
    ) -> Callable[[int, Tensor], Tensor]:
        """Return G of `losses.py`: cross-entropy with the labels without teachers, else the rule."""
        if self._teachers is None:
            return lambda _number, logits_BK: functional.cross_entropy(logits_BK, truth_B)
        # A backbone without early exits has one exit. It learns from the teacher's final exit.
        targets = self._teachers.targets(images_BCHW)[-len(logits_EBK) :]
        return lambda number, logits_BK: self._rule(
            logits_BK, Lesson(truth_B, targets[number], inputs["noise_BK"]), self._rule_settings
        )
