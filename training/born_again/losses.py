"""The one loss: what labels, the teacher and the network's own final exit ask of every exit.

    L = G(z_F) + sum over k < F of w·[(1 - b)·G(z_k) + b·D(z_F, z_k)]

z_k are exit k's logits, F the final exit, w the exit weight, b the distillation share. G is the
cross-entropy with the labels in generation 0, and the recipe's rule after (`rules.py`). D is
`divergence`, in which the final exit teaches and takes no gradient. b = 1 is the deep supervision of
self-distillation, a b below it Be Your Own Teacher: Zhang et al., ICCV 2019. Pure functions: know
nothing of networks or schedules.

Shapes: `E` exits, `B` rows, `K` classes.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional


def divergence(log_target_BK: Tensor, student_BK: Tensor, distillation_temperature: float) -> Tensor:
    """Return T²·KL(target || softmax(student/T)), a mean over rows.

    log_target_BK are log-probabilities at that same temperature. T² keeps the gradient's size from
    falling as the temperature rises: Hinton et al., 2015.
    """
    divided = functional.kl_div(
        functional.log_softmax(student_BK / distillation_temperature, dim=1),
        log_target_BK,
        reduction="batchmean",  # the default mean would also divide by the classes
        log_target=True,
    )
    return distillation_temperature**2 * divided


def composed_loss(
    logits_EBK: Tensor,
    loss_of_exit: Callable[[int, Tensor], Tensor],
    *,
    exit_weight: float,
    distillation_share: float,
    distillation_temperature: float,
) -> Tensor:
    """Return L for a batch; loss_of_exit is G, of an exit's number and its logits."""
    *early_logits, final_BK = logits_EBK
    log_target_BK = functional.log_softmax(final_BK.detach() / distillation_temperature, dim=1)
    loss = loss_of_exit(len(early_logits), final_BK)
    for number, logits_BK in enumerate(early_logits):
        # What has no share is not computed: a rule may be the dearer half of the loss.
        if distillation_share < 1:
            loss = loss + exit_weight * (1 - distillation_share) * loss_of_exit(number, logits_BK)
        if distillation_share > 0:
            from_final_exit = divergence(log_target_BK, logits_BK, distillation_temperature)
            loss = loss + exit_weight * distillation_share * from_final_exit
    return loss
