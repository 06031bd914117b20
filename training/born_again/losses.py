"""The one loss: what labels, the teacher and the network's own final exit ask of every exit.

    L = G(z_F) + sum over k < F of w·[(1 - b)·G(z_k) + b·D(z_F, z_k)]

z_k are exit k's logits, F the final exit, w the exit weight, b the distillation share. G is the
cross-entropy with the labels in generation 0, and the recipe's rule after. D is `divergence`, in
which the final exit teaches and takes no gradient. With b = 1 this is self-distillation inside one
network; with several generations it is Born-Again training: Furlanello et al., ICML 2018; Zhang et
al., "Be Your Own Teacher", ICCV 2019. Pure functions: know nothing of networks or schedules.

Shapes: `E` exits, `B` rows, `K` classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


def divergence(teacher_BK: Tensor, student_BK: Tensor, distillation_temperature: float) -> Tensor:
    """Give T²·KL(softmax(teacher/T) || softmax(student/T)), a mean over rows; the teacher gets no gradient.

    T² keeps the gradient's size from falling as the temperature rises: Hinton et al., 2015.
    """
    divided = functional.kl_div(
        functional.log_softmax(student_BK / distillation_temperature, dim=1),
        functional.log_softmax(teacher_BK.detach() / distillation_temperature, dim=1),
        reduction="batchmean",  # the default mean would also divide by the classes
        log_target=True,
    )
    return distillation_temperature**2 * divided


@dataclass(frozen=True)
class RuleSettings:
    """What a recipe sets of a rule."""

    alpha: float
    """Weight of the labels against the teacher, 0 to 1."""
    distillation_temperature: float


def kd(logits_BK: Tensor, truth_B: Tensor, teacher_BK: Tensor, settings: RuleSettings) -> Tensor:
    """Mix labels and teacher: alpha·CE + (1 - alpha)·T²·KL(teacher || student)."""
    labels = functional.cross_entropy(logits_BK, truth_B)
    teacher = divergence(teacher_BK, logits_BK, settings.distillation_temperature)
    return settings.alpha * labels + (1 - settings.alpha) * teacher


Rule = Callable[[Tensor, Tensor, Tensor, RuleSettings], Tensor]
"""What a later generation's exit should do: its logits, the truth, and the teacher's final logits."""

RULES: Mapping[str, Rule] = {"kd": kd}
"""Rules by the name that a recipe gives."""


def generation_loss(
    truth_B: Tensor, teacher_BK: Tensor | None, rule: Rule, settings: RuleSettings
) -> Callable[[Tensor], Tensor]:
    """Give G as a function of an exit's logits: cross-entropy without a teacher, else the rule."""
    if teacher_BK is None:
        return lambda logits_BK: functional.cross_entropy(logits_BK, truth_B)
    return lambda logits_BK: rule(logits_BK, truth_B, teacher_BK, settings)


def composed_loss(
    logits_EBK: Tensor,
    loss_of_exit: Callable[[Tensor], Tensor],
    *,
    exit_weight: float,
    distillation_share: float,
    distillation_temperature: float,
) -> Tensor:
    """Give L for a batch; loss_of_exit is G."""
    *early_logits, final_BK = logits_EBK
    loss = loss_of_exit(final_BK)
    for logits_BK in early_logits:
        from_labels = loss_of_exit(logits_BK)
        from_final_exit = divergence(final_BK, logits_BK, distillation_temperature)
        loss = loss + exit_weight * (
            (1 - distillation_share) * from_labels + distillation_share * from_final_exit
        )
    return loss
