"""The sections of a recipe that configure the training, with unit and default under each key.

The section of the dataset is in `training.data.section`, those of operating points in `training.exits.goals`.
Reading a recipe does not need PyTorch, which takes a second to import.
"""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from training.architectures.head_settings import HeadSettings
from training.recipe.section import Count, Positive, Section, Share

MOST_EXITS = 16
PHASES = {"frozen-heads": 2, "frozen-then-joint": 3}
"""Number of phases of `exits.train`, where there are several. Each needs one epoch."""

ArchitectureName = Literal["deep_supervision", "residual"]
RuleName = Literal["kd", "ban", "ban+l", "cwtm", "dkpp"]

Temperature = Annotated[float, Field(ge=0.1, le=100.0)]


def _as_tuple(value: object) -> object:
    """Return a number as a tuple of one."""
    return (value,) if isinstance(value, int) else value


Widths = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(strict=False)]
Depths = Annotated[tuple[Annotated[int, Field(ge=0, le=64)], ...], Field(strict=False)]
Strides = Annotated[tuple[Annotated[int, Field(ge=1, le=2)], ...], Field(strict=False)]


class AugmentationSection(Section):
    """Random changes to the images of every training batch. Other splits are not changed."""

    flip: bool = False
    """Whether to mirror half of the images left to right. Default false."""
    crop_padding: Annotated[int, Field(ge=0, le=64)] = 0
    """Black pixels added on each side before a random crop of the original size. Default 0."""
    erase_probability: Share = 0.0
    """Share of images in which a random box is overwritten with noise. Default 0.0."""


class ArchitectureSection(Section):
    """The network, which is the same in every generation."""

    name: ArchitectureName = "residual"
    """A registered architecture. Default residual."""
    exits: Annotated[int, Field(ge=2, le=MOST_EXITS)] = 3
    """Number of stages; each has one head, and so one exit. Default 3."""
    width: Annotated[Widths, BeforeValidator(_as_tuple)] = (32,)
    """Channels of the first stage, doubled in later stages; or one number per stage. Default 32."""
    depth: Annotated[Depths, BeforeValidator(_as_tuple)] = (1,)
    """Convolutions, or residual blocks, of every stage; or one number per stage. In `residual` the first may
    be 0: that stage is only the first convolution. Default 1."""
    strides: Strides = ()
    """Factor by which each stage shrinks the image, 1 or 2; only for `residual`. Default none: every stage
    after the first halves the image, down to 4 pixels a side."""
    heads: Annotated[tuple[HeadSettings, ...], Field(strict=False)] = (HeadSettings(grid=4),)
    """One for all exits, or one per exit in depth order: kind, grid, attention. Default linear, grid 4."""

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        for key in ("width", "depth", "heads"):
            count = len(getattr(self, key))
            if count not in {1, self.exits}:
                raise ValueError(f"{key}: expected 1, or one for each of {self.exits} exits, got {count}")
        if self.strides and len(self.strides) != self.exits:
            raise ValueError(f"strides: expected one for each of {self.exits} exits, got {len(self.strides)}")
        return self

    @property
    def head_of_each_exit(self) -> tuple[HeadSettings, ...]:
        """The heads in depth order."""
        return self.heads if len(self.heads) == self.exits else self.heads * self.exits

    @property
    def depth_of_each_stage(self) -> tuple[int, ...]:
        """The depths in depth order."""
        return self.depth if len(self.depth) == self.exits else self.depth * self.exits


class GenerationsSection(Section):
    """The generations: how many, and how each teaches the next."""

    count: Count = 3
    """Networks trained in sequence; the first has no teacher. Default 3."""
    rule: RuleName = "kd"
    """How teacher and labels are combined: kd, ban, ban+l, cwtm, dkpp. Default kd."""
    alpha: Share = 0.5
    """Weight of the labels, 0 to 1; the teacher has the rest. Only for `kd`. Default 0.5."""
    distillation_temperature: Temperature = 4.0
    """Softens the logits of teacher and student. Only for `kd`. Default 4.0."""
    teacher: Literal["previous", "ensemble"] = "previous"
    """The previous generation, or the mean of all earlier ones. Default previous."""
    teaching_mix: Share = 0.0
    """Share that exit k learns from the teacher's exit k; the rest comes from the teacher's final exit.
    Default 0.0."""
    patience: Count | None = None
    """Stop after this many generations without a significant gain on tune. Default none: train all."""


class ExitsSection(Section):
    """When and how the early exits are trained."""

    train: Literal["joint", "frozen", "frozen-heads", "frozen-then-joint"] = "frozen"
    """`frozen` trains the backbone with only the final exit, then chooses early exits like `attach`.
    `joint` trains the backbone and all exits together. `frozen-heads` trains the backbone, then the early
    heads of the architecture. `frozen-then-joint` does the same, then trains all together at a small learning
    rate. Default frozen."""


class DeepSupervisionSection(Section):
    """How the final exit teaches the early exits of the same network."""

    exit_weight: Annotated[float, Field(ge=0.0)] = 0.3
    """Weight of each early exit's loss; the final exit has weight 1. Default 0.3."""
    exit_weight_start: Annotated[float, Field(ge=0.0)] | None = None
    """Value of exit_weight at the first step; it then changes linearly. Default none: constant."""
    distillation_share: Share = 1.0
    """Share of an early exit's loss that comes from the final exit; the rest from labels and teacher.
    The method Be Your Own Teacher uses values between 0 and 1. Default 1.0."""
    distillation_temperature: Temperature = 4.0
    """Softens the logits of the final and the early exit. Default 4.0."""
    hint_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the distance between the embeddings of early and final exits. Default 0.0."""
    gradient_equilibrium: bool = False
    """Whether all exits that use a stage contribute equally to its gradient. Default false."""


class ScheduleSection(Section):
    """The optimizer and its one-cycle learning rate, the same for every generation."""

    epochs: Count = 20
    """Passes over the train split per generation. Default 20."""
    batch_rows: Annotated[int, Field(ge=2)] = 64
    """Rows per step. Default 64."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """`adamw`, or `sgd` with Nesterov momentum 0.9. SGD needs learning rates near 0.1 and a weight decay
    near 0.0005. Default adamw."""
    learning_rate: Positive = 0.004
    """Largest learning rate of the cycle. Default 0.004."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    """Weight decay: decoupled in AdamW, added to the gradient in SGD. Default 0.01."""
    warm_up_share: Share = 0.2
    """Share of the steps in which the learning rate rises. Default 0.2."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16 autocast, or fp32; auto uses bf16 if the device has bf16 instructions. Default auto."""


class BaselinesSection(Section):
    """Networks without early exits, for comparison in the report."""

    static: bool = False
    """Whether to train three networks without early exits: the backbone, and two narrower ones that cost at
    most as much as the default point. Takes at most twice the time of a generation. Default false."""
