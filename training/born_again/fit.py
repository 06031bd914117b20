"""Trains one generation, an epoch at a time, under a frozen teacher or none.

The teacher is in eval mode, takes no gradient, and sees the very batch that the student sees. All
that an epoch depends on is in `checkpoint()`, so a restored fit goes on bitwise as if undisturbed.
Knows nothing of files, of other generations, or of the test split.

Shapes: `B` rows of a batch, `N` rows of a split, `E` exits, `K` classes, `C H W` image.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from training.architectures.network import MultiExitNetwork
from training.born_again.checkpoint import Checkpoint, Epoch
from training.born_again.losses import RULES, RuleSettings, composed_loss, generation_loss
from training.born_again.schedule import one_cycle
from training.data.splits import Split
from training.errors import RecipeError
from training.recipe import Recipe

EVALUATION_ROWS = 1024
"""Rows a batch where no gradient is kept."""


class Fit:
    """A generation in training: student, optimizer, the order of batches, and what is done so far."""

    def __init__(
        self,
        generation: int,
        student: MultiExitNetwork,
        teacher: MultiExitNetwork | None,
        train: Split,
        tune: Split,
        recipe: Recipe,
        *,
        order_seed: int,
    ) -> None:
        device = next(student.parameters()).device
        self._generation = generation
        self._student = student
        self._teacher = teacher.eval().requires_grad_(False) if teacher is not None else None
        self._images_NCHW, self._truth_N = _tensors(train, device)
        self._tune = _tensors(tune, device)
        self._recipe = recipe
        self._optimizer = torch.optim.AdamW(
            student.parameters(),
            lr=recipe.schedule.learning_rate,
            weight_decay=recipe.schedule.weight_decay,
        )
        self._generator = torch.Generator().manual_seed(order_seed)
        self._history: list[Epoch] = []

    @property
    def history(self) -> tuple[Epoch, ...]:
        """The epochs done so far."""
        return tuple(self._history)

    @property
    def steps_per_epoch(self) -> int:
        """How many batches the train split makes; the last may be smaller."""
        return math.ceil(len(self._truth_N) / self._recipe.schedule.batch_rows)

    def checkpoint(self) -> Checkpoint:
        """Give the state after the last whole epoch."""
        return Checkpoint(
            generation=self._generation,
            history=self.history,
            network=self._student.state_dict(),
            optimizer=self._optimizer.state_dict(),
            generator=self._generator.get_state(),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to that state."""
        self._student.load_state_dict(checkpoint.network)
        self._optimizer.load_state_dict(dict(checkpoint.optimizer))
        self._generator.set_state(checkpoint.generator)
        self._history = list(checkpoint.history)

    def run_epoch(self, on_step: Callable[[], None]) -> Epoch:
        """Train on every row once; raise RecipeError where the loss is no longer a number."""
        self._student.train()
        loss_sum = torch.zeros((), dtype=torch.float64, device=self._truth_N.device)
        first_step = len(self._history) * self.steps_per_epoch
        for step, row_B in zip(itertools.count(first_step), self._batches(), strict=False):
            loss_sum += self._step(step, row_B)
            on_step()
        epoch = Epoch(loss_sum.item() / self.steps_per_epoch, exit_accuracy(self._student, *self._tune))
        self._check_finite(epoch)
        self._history.append(epoch)
        return epoch

    def _batches(self) -> tuple[Tensor, ...]:
        order_N = torch.randperm(len(self._truth_N), generator=self._generator)
        return torch.split(order_N.to(self._truth_N.device), self._recipe.schedule.batch_rows)

    def _step(self, step: int, row_B: Tensor) -> Tensor:
        schedule = self._recipe.schedule
        for group in self._optimizer.param_groups:
            group["lr"] = one_cycle(
                step,
                schedule.epochs * self.steps_per_epoch,
                peak=schedule.learning_rate,
                warm_up_share=schedule.warm_up_share,
            )
        loss = self._loss(self._images_NCHW[row_B], self._truth_N[row_B])
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()

    def _loss(self, images_BCHW: Tensor, truth_B: Tensor) -> Tensor:
        generations, supervision = self._recipe.generations, self._recipe.deep_supervision
        rule_settings = RuleSettings(generations.alpha, generations.distillation_temperature)
        return composed_loss(
            self._student(images_BCHW),
            generation_loss(
                truth_B, self._teacher_logits(images_BCHW), RULES[generations.rule], rule_settings
            ),
            exit_weight=supervision.exit_weight,
            distillation_share=supervision.distillation_share,
            distillation_temperature=supervision.distillation_temperature,
        )

    def _teacher_logits(self, images_BCHW: Tensor) -> Tensor | None:
        if self._teacher is None:
            return None
        with torch.no_grad():
            final_BK: Tensor = self._teacher(images_BCHW)[-1]
        return final_BK

    def _check_finite(self, epoch: Epoch) -> None:
        if not math.isfinite(epoch.loss):
            raise RecipeError(
                f"loss: expected a finite one, got {epoch.loss} in generation {self._generation}, "
                f"epoch {len(self._history) + 1}, at schedule.learning_rate "
                f"{self._recipe.schedule.learning_rate}: a smaller one may do"
            )


def exit_accuracy(network: MultiExitNetwork, images_NCHW: Tensor, truth_N: Tensor) -> tuple[float, ...]:
    """Give the share of rows that each exit has right, in eval mode; the network keeps its mode."""
    was_training = network.training
    network.eval()
    correct_E = torch.zeros(network.exit_count, dtype=torch.int64)
    with torch.no_grad():
        for images_BCHW, truth_B in zip(
            torch.split(images_NCHW, EVALUATION_ROWS), torch.split(truth_N, EVALUATION_ROWS), strict=True
        ):
            label_EB = network(images_BCHW).argmax(dim=2)
            correct_E += (label_EB == truth_B).sum(dim=1).cpu()
    network.train(was_training)
    return tuple((correct_E.double() / len(truth_N)).tolist())


def _tensors(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(split.images_NCHW).to(device), torch.from_numpy(split.truth_N).to(device)
