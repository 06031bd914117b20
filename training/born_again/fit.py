"""Training of one generation, epoch by epoch.

`checkpoint()` returns the whole state, so a restored fit gives the same results: bitwise on a CPU; for CUDA
see `reproducible.py`. All random numbers come from a generator on the CPU, on every device.

Shapes: `B` rows of a batch, `N` rows of a split, `E` exits, `C H W` image.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from training.architectures.network import MultiExitNetwork
from training.born_again.checkpoint import Checkpoint, EpochResult
from training.born_again.cuda_step import CudaStep
from training.born_again.objective import Objective
from training.born_again.optimizers import load_optimizer_state, make_optimizer, set_learning_rate
from training.born_again.phases import TrainingPhase, phases
from training.born_again.precision import Precision
from training.born_again.schedule import one_cycle
from training.data.augmentation import change, sample_changes
from training.data.splits import Split
from training.errors import RecipeError
from training.recipe.settings import AugmentationSection, ExitsSection, ScheduleSection

EVALUATION_ROWS = 1024
"""Rows of a batch in evaluation, where no gradient is kept."""


class Fit:
    """A generation in training: its student, its optimizer, the batch order and the finished epochs."""

    def __init__(
        self,
        generation: int,
        student: MultiExitNetwork,
        objective: Objective,
        train: Split,
        tune: Split,
        precision: Precision,
        *,
        schedule: ScheduleSection,
        exits: ExitsSection,
        augmentation: AugmentationSection,
        order_seed: int,
    ) -> None:
        self._generation = generation
        self._student = precision.place(student)
        self._trained = self._student
        """The part that runs in training: in a backbone phase, the student without early exits."""
        self._captured: tuple[TrainingPhase, CudaStep] | None = None
        """On CUDA, the captured step and its phase."""
        self._phases = phases(exits.train, schedule.epochs)
        self._objective = objective
        self._hints = objective.hints.to(precision.device) if objective.hints is not None else None
        self._precision = precision
        self._images_NCHW, self._truth_N = tensors(train, precision.device)
        self._tune = tensors(tune, precision.device)
        self._schedule = schedule
        self._augmentation = augmentation
        self._optimizer = make_optimizer(
            itertools.chain(
                student.parameters(), self._hints.parameters() if self._hints is not None else ()
            ),
            schedule,
            precision.device,
        )
        self._generator = torch.Generator().manual_seed(order_seed)
        self._history: list[EpochResult] = []

    @property
    def history(self) -> tuple[EpochResult, ...]:
        """The finished epochs."""
        return tuple(self._history)

    @property
    def epochs(self) -> int:
        """Number of epochs to train."""
        return self._schedule.epochs

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in the train split; the last may be smaller."""
        return math.ceil(len(self._truth_N) / self._schedule.batch_rows)

    def checkpoint(self) -> Checkpoint:
        """Return the state after the last finished epoch."""
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
        """Load the state of a checkpoint."""
        self._student.load_state_dict(checkpoint.network)
        if self._hints is not None:
            self._hints.load_state_dict(checkpoint.hints)
        load_optimizer_state(self._optimizer, checkpoint.optimizer)
        self._generator.set_state(checkpoint.generator)
        self._history = list(checkpoint.history)
        self._captured = None  # it reads the replaced state of the optimizer

    def run_epoch(self, on_step: Callable[[], None]) -> EpochResult:
        """Train on every row once; raise RecipeError if the loss is not finite."""
        self._trained = self._phase.prepare(self._student)
        loss_sum = torch.zeros((), dtype=torch.float64, device=self._truth_N.device)
        first_step = len(self._history) * self.steps_per_epoch
        for step, batch in enumerate(self.batches(), first_step):
            loss_sum += self.step(step, batch)
            on_step()
        epoch = EpochResult(loss_sum.item() / self.steps_per_epoch, exit_accuracy(self._trained, *self._tune))
        self._check_finite(epoch)
        self._history.append(epoch)
        return epoch

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """Yield batches of all rows, in a new random order: `row_B` and the augmentation's changes."""
        order_N = torch.randperm(len(self._truth_N), generator=self._generator)
        for row_B in torch.split(order_N, self._schedule.batch_rows):
            shape = (len(row_B), *self._images_NCHW.shape[1:])
            yield {"row_B": row_B, **sample_changes(shape, self._augmentation, self._generator)}

    def step(self, step: int, batch: Mapping[str, Tensor]) -> Tensor:
        """Run one optimizer step; return the loss before it, valid until the next step."""
        schedule, phase = self._schedule, self._phase
        rate = one_cycle(
            step - phase.first_epoch * self.steps_per_epoch,
            phase.epochs * self.steps_per_epoch,
            peak=schedule.learning_rate * phase.peak_share,
            warm_up_share=schedule.warm_up_share,
        )
        set_learning_rate(self._optimizer, rate)
        inputs = self._objective.inputs(step, schedule.epochs * self.steps_per_epoch, len(batch["row_B"]))
        if self._precision.device.type != "cuda":
            return self._optimize({**batch, **inputs})
        if self._captured is None or self._captured[0] != phase:
            self._captured = phase, CudaStep(self._precision.device)
        return self._captured[1].run(self._optimize, {**batch, **inputs})

    def _optimize(self, inputs: Mapping[str, Tensor]) -> Tensor:
        row_B = inputs["row_B"]
        loss = self._objective.loss(
            self._trained,
            change(self._images_NCHW[row_B], self._augmentation, inputs),
            self._truth_N[row_B],
            inputs,
            self._precision,
        )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()

    @property
    def _phase(self) -> TrainingPhase:
        """The phase of the current epoch."""
        done = len(self._history)
        return next(phase for phase in self._phases if done < phase.first_epoch + phase.epochs)

    def _check_finite(self, epoch: EpochResult) -> None:
        if not math.isfinite(epoch.loss):
            raise RecipeError(
                f"loss: expected a finite one, got {epoch.loss} in generation {self._generation}, "
                f"epoch {len(self._history) + 1}, at schedule.learning_rate "
                f"{self._schedule.learning_rate}: try a smaller one"
            )


def exit_accuracy(network: MultiExitNetwork, images_NCHW: Tensor, truth_N: Tensor) -> tuple[float, ...]:
    """Compute the accuracy of each exit in eval mode, then restore the network's mode."""
    correct_EN = right_rows(network, images_NCHW, truth_N)
    return tuple(correct_EN.double().mean(dim=1).tolist())


def right_rows(network: MultiExitNetwork, images_NCHW: Tensor, truth_N: Tensor) -> Tensor:
    """Return which rows each exit classifies correctly, [E, N], in eval mode and FP32.

    Restores the network's mode.
    """
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
    """Copy a split's images and labels to a device."""
    return torch.from_numpy(split.images_NCHW).to(device), torch.from_numpy(split.truth_N).to(device)
