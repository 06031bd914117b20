"""The rules of Born-Again training: losses of one exit from the labels and a teacher.

`ban`, `ban_l`, `cwtm` and `dkpp` are those of Furlanello et al., "Born-Again Neural Networks", ICML
2018; `kd` is Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.

Shapes: `B` rows, `K` classes, `M` members of a teacher.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from training.born_again.losses import divergence


@dataclass(frozen=True)
class TeacherTarget:
    """A teacher's output for a batch: a weighted mean of softmax outputs.

    A single network has one member. An ensemble of generations, or a mix of two exits, has several.
    """

    logits_MBK: Tensor
    weight_M: tuple[float, ...]
    """The members' weights, with sum 1."""

    def log_probabilities(self, distillation_temperature: float = 1.0) -> Tensor:
        """Compute the log of the mean, [B, K], with each member softened before averaging."""
        weight_M11 = torch.cat([self.logits_MBK.new_full((1, 1, 1), weight) for weight in self.weight_M])
        softened_MBK = functional.log_softmax(self.logits_MBK / distillation_temperature, dim=2)
        return torch.logsumexp(softened_MBK + weight_M11.log(), dim=0)

    def probabilities(self) -> Tensor:
        """Compute the mean, [B, K], at temperature 1."""
        return self.log_probabilities().exp()


@dataclass(frozen=True)
class RuleSettings:
    """The rule's settings in a recipe."""

    alpha: float
    """Weight of the labels in `kd`, 0 to 1; the teacher has the rest."""
    distillation_temperature: float
    """Used by `kd`; the other rules use the teacher at temperature 1."""


@dataclass(frozen=True)
class Lesson:
    """The inputs of a rule for one exit and one batch."""

    truth_B: Tensor
    target: TeacherTarget
    noise_BK: Tensor
    """Uniform random numbers below 1; their order is the permutation of `dkpp`."""


Rule = Callable[[Tensor, Lesson, RuleSettings], Tensor]
"""Computes the loss of one exit of generation 1 or later, a scalar, from its logits [B, K] and a lesson."""


def kd(logits_BK: Tensor, lesson: Lesson, settings: RuleSettings) -> Tensor:
    """Compute alpha·CE(labels) + (1 - alpha)·T²·KL(teacher || student)."""
    labels = functional.cross_entropy(logits_BK, lesson.truth_B)
    log_target_BK = lesson.target.log_probabilities(settings.distillation_temperature)
    teacher = divergence(log_target_BK, logits_BK, settings.distillation_temperature)
    return settings.alpha * labels + (1 - settings.alpha) * teacher


def ban(logits_BK: Tensor, lesson: Lesson, _settings: RuleSettings) -> Tensor:
    """Compute CE(teacher), without labels."""
    return functional.cross_entropy(logits_BK, lesson.target.probabilities())


def ban_l(logits_BK: Tensor, lesson: Lesson, settings: RuleSettings) -> Tensor:
    """Compute CE(teacher) + CE(labels)."""
    return ban(logits_BK, lesson, settings) + functional.cross_entropy(logits_BK, lesson.truth_B)


def cwtm(logits_BK: Tensor, lesson: Lesson, _settings: RuleSettings) -> Tensor:
    """Compute CE(labels) with each row weighted by the teacher's largest probability.

    The weights add up to 1 over the batch. A row keeps its weight even if the teacher is wrong.
    """
    confidence_B = lesson.target.probabilities().amax(dim=1)
    loss_B = functional.cross_entropy(logits_BK, lesson.truth_B, reduction="none")
    return (confidence_B / confidence_B.sum() * loss_B).sum()


def dkpp(logits_BK: Tensor, lesson: Lesson, _settings: RuleSettings) -> Tensor:
    """Compute CE(teacher) after permuting all probabilities of a row except the largest."""
    return functional.cross_entropy(
        logits_BK, permute_dark_knowledge(lesson.target.probabilities(), lesson.noise_BK)
    )


def permute_dark_knowledge(probabilities_BK: Tensor, noise_BK: Tensor) -> Tensor:
    """Permute the entries of each row except its largest, uniformly if the noise is independent."""
    largest_B1 = probabilities_BK.argmax(dim=1, keepdim=True)
    last_BK = torch.zeros_like(noise_BK).scatter(1, largest_B1, 2.0)  # noise is below 1
    target_BK = last_BK.argsort(dim=1, stable=True)  # the others in order, then the largest
    source_BK = (noise_BK + last_BK).argsort(dim=1)  # the others in random order, then the largest
    return torch.zeros_like(probabilities_BK).scatter(1, target_BK, probabilities_BK.gather(1, source_BK))


RULES: Mapping[str, Rule] = {"kd": kd, "ban": ban, "ban+l": ban_l, "cwtm": cwtm, "dkpp": dkpp}
"""Rules by their name in recipes."""
