"""The training loss of a network with exits.

    L = G(z_F) + sum over k < F of w·[(1 - b)·G(z_k) + b·D(z_F, z_k)]

z_k are exit k's logits, F the final exit, w the exit weight, b the distillation share. G is the
cross-entropy with the labels in generation 0, and the recipe's rule in later ones (`rules.py`). D is
`divergence` from the final exit, which receives no gradient. b = 1 is self-distillation by deep supervision;
b < 1 is Be Your Own Teacher (Zhang et al., ICCV 2019).

Shapes: `E` exits, `B` rows, `K` classes.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional


def divergence(log_target_BK: Tensor, student_BK: Tensor, distillation_temperature: float) -> Tensor:
    """Compute T²·KL(target || softmax(student/T)), averaged over rows.

    log_target_BK holds log-probabilities at the same temperature. T² keeps the size of the gradient
    independent of the temperature (Hinton et al., 2015).
    """
    divergence_at_temperature = functional.kl_div(
        functional.log_softmax(student_BK / distillation_temperature, dim=1),
        log_target_BK,
        reduction="batchmean",  # the default also divides by the number of classes
        log_target=True,
    )
    return distillation_temperature**2 * divergence_at_temperature


def composed_loss(
    logits_EBK: Tensor,
    loss_of_exit: Callable[[int, Tensor], Tensor],
    *,
    exit_weight: Tensor | float,
    distillation_share: float,
    distillation_temperature: float,
) -> Tensor:
    """Compute L for a batch; loss_of_exit is G as a function of an exit's number and logits."""
    *early_logits, final_BK = logits_EBK
    log_target_BK = functional.log_softmax(final_BK.detach() / distillation_temperature, dim=1)
    loss = loss_of_exit(len(early_logits), final_BK)
    for number, logits_BK in enumerate(early_logits):
        # Skip a term of weight 0: a rule may cost more than the rest of the loss.
        if distillation_share < 1:
            loss = loss + exit_weight * (1 - distillation_share) * loss_of_exit(number, logits_BK)
        if distillation_share > 0:
            from_final_exit = divergence(log_target_BK, logits_BK, distillation_temperature)
            loss = loss + exit_weight * distillation_share * from_final_exit
    return loss
