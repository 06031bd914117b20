"""Trains one generation, an epoch at a time, under frozen teachers or none.

All that an epoch depends on is in `checkpoint()`, so a restored fit goes on bitwise as if undisturbed.
Every draw comes from a generator on the CPU, whatever the device.
Knows nothing of files, of other generations, or of the test split.

Shapes: `B` rows of a batch, `N` rows of a split, `E` exits, `K` classes, `C H W` image.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from training.architectures.network import MultiExitNetwork
from training.born_again.checkpoint import Checkpoint, EpochResult
from training.born_again.hints import Hints
from training.born_again.losses import composed_loss
from training.born_again.phases import TrainingPhase, phases
from training.born_again.precision import Precision
from training.born_again.rules import RULES, Lesson, RuleSettings
from training.born_again.schedule import one_cycle, ramp
from training.born_again.teachers import Teachers
from training.data.augmentation import augment
from training.data.splits import Split
from training.errors import RecipeError
from training.recipe.recipe import Recipe

EVALUATION_ROWS = 1024
"""Rows a batch where no gradient is kept."""


class Fit:
    """A generation in training: student, optimizer, the order of batches, and what is done so far."""

    def __init__(
        self,
        generation: int,
        student: MultiExitNetwork,
        teachers: Teachers | None,
        train: Split,
        tune: Split,
        recipe: Recipe,
        precision: Precision,
        *,
        order_seed: int,
        noise_seed: int = 0,
        hints: Hints | None = None,
    ) -> None:
        self._generation = generation
        self._student = precision.place(student)
        self._trained = self._student
        """What runs in training: in a phase without early exits, the student without them."""
        self._phases = phases(recipe.exits.train, recipe.schedule.epochs)
        self._teachers = teachers
        self._hints = hints.to(precision.device) if hints is not None else None
        self._precision = precision
        self._images_NCHW, self._truth_N = tensors(train, precision.device)
        self._tune = tensors(tune, precision.device)
        self._recipe = recipe
        self._optimizer = torch.optim.AdamW(
            itertools.chain(student.parameters(), hints.parameters() if hints is not None else ()),
            lr=recipe.schedule.learning_rate,
            weight_decay=recipe.schedule.weight_decay,
        )
        self._generator = torch.Generator().manual_seed(order_seed)
        self._noise_seed = noise_seed
        self._history: list[EpochResult] = []

    @property
    def history(self) -> tuple[EpochResult, ...]:
        """The epochs done so far."""
        return tuple(self._history)

    @property
    def steps_per_epoch(self) -> int:
        """How many batches the train split makes; the last may be smaller."""
        return math.ceil(len(self._truth_N) / self._recipe.schedule.batch_rows)

    def checkpoint(self) -> Checkpoint:
        """Return the state after the last whole epoch."""
        return Checkpoint(
            generation=self._generation,
            precision=self._precision.format,
            history=self.history,
            network=self._student.state_dict(),
            hints=self._hints.state_dict() if self._hints is not None else {},
            optimizer=self._optimizer.state_dict(),
            generator=self._generator.get_state(),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to that state."""
        self._student.load_state_dict(checkpoint.network)
        if self._hints is not None:
            self._hints.load_state_dict(checkpoint.hints)
        self._optimizer.load_state_dict(dict(checkpoint.optimizer))
        self._generator.set_state(checkpoint.generator)
        self._history = list(checkpoint.history)

    def run_epoch(self, on_step: Callable[[], None]) -> EpochResult:
        """Train on every row once; raise RecipeError where the loss is no longer a number."""
        self._trained = self._phase.prepare(self._student)
        loss_sum = torch.zeros((), dtype=torch.float64, device=self._truth_N.device)
        first_step = len(self._history) * self.steps_per_epoch
        for step, (images_BCHW, truth_B) in enumerate(self.batches(), first_step):
            loss_sum += self.step(step, images_BCHW, truth_B)
            on_step()
        epoch = EpochResult(loss_sum.item() / self.steps_per_epoch, exit_accuracy(self._student, *self._tune))
        self._check_finite(epoch)
        self._history.append(epoch)
        return epoch

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every row once in a fresh order, augmented, with its truth."""
        order_N = torch.randperm(len(self._truth_N), generator=self._generator)
        for row_B in torch.split(order_N.to(self._truth_N.device), self._recipe.schedule.batch_rows):
            images_BCHW = augment(self._images_NCHW[row_B], self._recipe.augmentation, self._generator)
            yield images_BCHW, self._truth_N[row_B]

    def step(self, step: int, images_BCHW: Tensor, truth_B: Tensor) -> Tensor:
        """Take one step of the optimizer; gives the loss before it."""
        schedule, phase = self._recipe.schedule, self._phase
        for group in self._optimizer.param_groups:
            group["lr"] = one_cycle(
                step - phase.first_epoch * self.steps_per_epoch,
                phase.epochs * self.steps_per_epoch,
                peak=schedule.learning_rate * phase.peak_share,
                warm_up_share=schedule.warm_up_share,
            )
        loss = self._loss(step, images_BCHW, truth_B)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()

    @property
    def _phase(self) -> TrainingPhase:
        """The phase of the epoch that is next, or under way."""
        done = len(self._history)
        return next(each for each in self._phases if done < each.first_epoch + each.epochs)

    @property
    def _steps(self) -> int:
        return self._recipe.schedule.epochs * self.steps_per_epoch

    def _loss(self, step: int, images_BCHW: Tensor, truth_B: Tensor) -> Tensor:
        supervision = self._recipe.deep_supervision
        with self._precision.autocast():
            logits_EBK, embeddings = self._trained.answer(
                images_BCHW, gradient_equilibrium=supervision.gradient_equilibrium
            )
            loss_of_exit = self._loss_of_exit(step, images_BCHW, truth_B, logits_EBK.shape)
        loss = composed_loss(
            logits_EBK,
            loss_of_exit,
            exit_weight=self._exit_weight(step),
            distillation_share=supervision.distillation_share,
            distillation_temperature=supervision.distillation_temperature,
        )
        if self._hints is not None and self._trained is self._student:
            with self._precision.autocast():
                loss = loss + supervision.hint_weight * self._hints(embeddings)
        return loss

    def _exit_weight(self, step: int) -> float:
        supervision = self._recipe.deep_supervision
        start = supervision.exit_weight_start
        if start is None:
            return supervision.exit_weight
        return ramp(step, self._steps, start=start, end=supervision.exit_weight)

    def _loss_of_exit(
        self, step: int, images_BCHW: Tensor, truth_B: Tensor, shape_EBK: Sequence[int]
    ) -> Callable[[int, Tensor], Tensor]:
        """Return G: cross-entropy with the labels without a teacher, else the recipe's rule."""
        if self._teachers is None:
            return lambda _number, logits_BK: functional.cross_entropy(logits_BK, truth_B)
        generations = self._recipe.generations
        rule = RULES[generations.rule]
        settings = RuleSettings(generations.alpha, generations.distillation_temperature)
        targets = self._teachers.targets(images_BCHW)
        exits, rows, classes = shape_EBK
        targets = targets[-exits:]  # a backbone alone learns from the teacher's final exit
        noise_BK = self._noise(step, rows, classes).to(truth_B.device)
        return lambda number, logits_BK: rule(logits_BK, Lesson(truth_B, targets[number], noise_BK), settings)

    def _noise(self, step: int, rows: int, classes: int) -> Tensor:
        """Draw what a rule permutes by, as a function of the step: rules see the same batches at one seed."""
        generator = torch.Generator().manual_seed(self._noise_seed + step)
        return torch.rand((rows, classes), generator=generator)

    def _check_finite(self, epoch: EpochResult) -> None:
        if not math.isfinite(epoch.loss):
            raise RecipeError(
                f"loss: expected a finite one, got {epoch.loss} in generation {self._generation}, "
                f"epoch {len(self._history) + 1}, at schedule.learning_rate "
                f"{self._recipe.schedule.learning_rate}: a smaller one may do"
            )


def exit_accuracy(network: MultiExitNetwork, images_NCHW: Tensor, truth_N: Tensor) -> tuple[float, ...]:
    """Return the share of rows that each exit has right, in eval mode; the network keeps its mode."""
    correct_EN = right_rows(network, images_NCHW, truth_N)
    return tuple(correct_EN.double().mean(dim=1).tolist())


def right_rows(network: MultiExitNetwork, images_NCHW: Tensor, truth_N: Tensor) -> Tensor:
    """Return which rows each exit has right, [E, N], in eval mode and FP32; the network keeps its mode."""
    was_training = network.training
    network.eval()
    with torch.no_grad():
        label_EN = torch.cat(
            [network(batch_BCHW).argmax(dim=2) for batch_BCHW in torch.split(images_NCHW, EVALUATION_ROWS)],
            dim=1,
        )
    network.train(was_training)
    return label_EN == truth_N


def tensors(split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
    """Put a split's images and truth on a device."""
    return torch.from_numpy(split.images_NCHW).to(device), torch.from_numpy(split.truth_N).to(device)
