"""The rules of Born-Again training: how a teacher and the labels together teach one exit.

`ban`, `ban_l`, `cwtm` and `dkpp` are those of Furlanello et al., "Born-Again Neural Networks", ICML
2018; `kd` is Hinton et al., "Distilling the Knowledge in a Neural Network", 2015. Pure functions: what
they draw on is given to them. Know nothing of networks.

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
    """What a teacher says of a batch: a weighted mean of softmax outputs.

    One member is a plain teacher; several are an ensemble of generations, or a mix of its exits.
    """

    logits_MBK: Tensor
    weight_M: tuple[float, ...]
    """Adds up to 1."""

    def log_probabilities(self, distillation_temperature: float = 1.0) -> Tensor:
        """Return [B, K], each member softened before the mean is taken."""
        weight_M11 = self.logits_MBK.new_tensor(self.weight_M)[:, None, None]
        softened_MBK = functional.log_softmax(self.logits_MBK / distillation_temperature, dim=2)
        return torch.logsumexp(softened_MBK + weight_M11.log(), dim=0)

    def probabilities(self) -> Tensor:
        """Return [B, K] at temperature 1."""
        return self.log_probabilities().exp()


@dataclass(frozen=True)
class RuleSettings:
    """What a recipe sets of a rule."""

    alpha: float
    """Weight of the labels against the teacher in `kd`, 0 to 1."""
    distillation_temperature: float
    """Of `kd`; the other rules take the teacher as it is."""


@dataclass(frozen=True)
class Lesson:
    """What an exit is taught of a batch."""

    truth_B: Tensor
    target: TeacherTarget
    noise_BK: Tensor
    """Uniform numbers, which order what `dkpp` permutes."""


Rule = Callable[[Tensor, Lesson, RuleSettings], Tensor]
"""What a later generation's exit should do: a scalar of its logits [B, K] and its lesson."""


def kd(logits_BK: Tensor, lesson: Lesson, settings: RuleSettings) -> Tensor:
    """Mix labels and teacher: alpha·CE(y) + (1 - alpha)·T²·KL(teacher || student)."""
    labels = functional.cross_entropy(logits_BK, lesson.truth_B)
    log_target_BK = lesson.target.log_probabilities(settings.distillation_temperature)
    teacher = divergence(log_target_BK, logits_BK, settings.distillation_temperature)
    return settings.alpha * labels + (1 - settings.alpha) * teacher


def ban(logits_BK: Tensor, lesson: Lesson, _settings: RuleSettings) -> Tensor:
    """Learn the teacher's probabilities alone: CE(teacher), no labels."""
    return functional.cross_entropy(logits_BK, lesson.target.probabilities())


def ban_l(logits_BK: Tensor, lesson: Lesson, settings: RuleSettings) -> Tensor:
    """Add the labels: CE(teacher) + CE(y), one to one."""
    return ban(logits_BK, lesson, settings) + functional.cross_entropy(logits_BK, lesson.truth_B)


def cwtm(logits_BK: Tensor, lesson: Lesson, _settings: RuleSettings) -> Tensor:
    """Weigh the labels by the teacher's largest probability: confidence-weighted by teacher max.

    The weights add up to 1 over the batch, and are the teacher's maximum even where it is wrong.
    """
    confidence_B = lesson.target.probabilities().amax(dim=1)
    loss_B = functional.cross_entropy(logits_BK, lesson.truth_B, reduction="none")
    return (confidence_B / confidence_B.sum() * loss_B).sum()


def dkpp(logits_BK: Tensor, lesson: Lesson, _settings: RuleSettings) -> Tensor:
    """Learn the teacher's probabilities with all but the largest permuted: dark knowledge destroyed."""
    return functional.cross_entropy(
        logits_BK, permute_dark_knowledge(lesson.target.probabilities(), lesson.noise_BK)
    )


def permute_dark_knowledge(probabilities_BK: Tensor, noise_BK: Tensor) -> Tensor:
    """Permute each row's entries but its largest, which stays; independent noise gives a uniform draw."""
    largest_B1 = probabilities_BK.argmax(dim=1, keepdim=True)
    last_BK = torch.zeros_like(noise_BK).scatter(1, largest_B1, 2.0)  # noise is below 1
    places_BK = last_BK.argsort(dim=1, stable=True)  # the others in order, then the largest
    drawn_BK = (noise_BK + last_BK).argsort(dim=1)  # the others as drawn, then the largest
    return torch.zeros_like(probabilities_BK).scatter(1, places_BK, probabilities_BK.gather(1, drawn_BK))


RULES: Mapping[str, Rule] = {"kd": kd, "ban": ban, "ban+l": ban_l, "cwtm": cwtm, "dkpp": dkpp}
"""Rules by the name that a recipe gives."""
