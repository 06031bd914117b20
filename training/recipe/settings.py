"""The sections of a recipe on training: what each part can be told, with unit and default under each key.

What a recipe says of its data lies with the data (`training.data.section`), and what it asks of operating
points with the exits (`training.exits.goals`). Knows the names of architectures and rules from their
registries, but not what they do.
"""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from training.architectures.heads import HeadSettings
from training.architectures.registry import ARCHITECTURES
from training.born_again.rules import RULES
from training.recipe.section import Count, OneOf, Positive, Section, Share

MOST_EXITS = 16
FEWEST_PHASED_EPOCHS = 3
"""`frozen-then-joint` takes an epoch for each of its phases."""

Temperature = Annotated[float, Field(ge=0.1, le=100.0)]


def _alone_or_listed(value: object) -> object:
    """Take one number for a list of one."""
    return (value,) if isinstance(value, int) else value


Widths = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(strict=False)]
Depths = Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(strict=False)]
Strides = Annotated[tuple[Annotated[int, Field(ge=1, le=2)], ...], Field(strict=False)]


class AugmentationSection(Section):
    """What is changed at random in every batch of images; never for the other splits."""

    flip: bool = False
    """Whether every second image is mirrored left to right. Default false."""
    crop_padding: Annotated[int, Field(ge=0, le=64)] = 0
    """Pixels of black added around an image before it is cut out again at a random place. Default 0."""
    erase_probability: Share = 0.0
    """Share of images of which a random box is overwritten by noise. Default 0.0."""


class ArchitectureSection(Section):
    """The network, the same in every generation."""

    name: Annotated[str, OneOf(ARCHITECTURES)] = "deep_supervision"
    """A registered architecture. Default deep_supervision."""
    exits: Annotated[int, Field(ge=2, le=MOST_EXITS)] = 3
    """Stages, each with its head and so its exit. Default 3."""
    width: Annotated[Widths, BeforeValidator(_alone_or_listed)] = (64,)
    """Channels of the first stage, which later ones double; or one number a stage. Default 64."""
    depth: Annotated[Depths, BeforeValidator(_alone_or_listed)] = (1,)
    """Convolutions, or residual blocks, of every stage; or one number a stage. Default 1."""
    strides: Strides = ()
    """By what each stage shrinks the image, 1 or 2; only for `residual`. Default none: the architecture's
    own rule, which halves in every stage but the first while 4 pixels a side remain."""
    heads: Annotated[tuple[HeadSettings, ...], Field(strict=False)] = (HeadSettings(),)
    """One for all exits, or one an exit in depth order: kind, grid, attention. Default linear."""

    @model_validator(mode="after")
    def _one_for_each_exit(self) -> Self:
        for key in ("width", "depth", "heads"):
            given = len(getattr(self, key))
            if given not in {1, self.exits}:
                raise ValueError(f"{key}: expected 1, or one for each of {self.exits} exits, got {given}")
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
    """How often a trained network teaches the next, and by which rule."""

    count: Count = 3
    """Networks trained one after the other, the first without a teacher. Default 3."""
    rule: Annotated[str, OneOf(RULES)] = "kd"
    """How a teacher and the labels combine: kd, ban, ban+l, cwtm, dkpp. Default kd."""
    alpha: Share = 0.5
    """Weight of the labels against the teacher, 0 to 1; only `kd` reads it. Default 0.5."""
    distillation_temperature: Temperature = 4.0
    """Softens teacher and student; only `kd` reads it. Default 4.0."""
    teacher: Literal["previous", "ensemble"] = "previous"
    """The generation before, or the mean of all before. Default previous."""
    teaching_mix: Share = 0.0
    """How much exit k learns from the teacher's exit k instead of its final one. Default 0.0."""
    patience: Count | None = None
    """Stop once so many in a row gained nothing on tune beyond noise. Default none: train all."""


class ExitsSection(Section):
    """When the early exits are trained."""

    train: Literal["joint", "frozen", "frozen-then-joint"] = "frozen"
    """`frozen` trains the backbone with its final exit alone, and then chooses early exits for it as `attach`
    does. `joint` trains the backbone and all exits together. `frozen-then-joint` trains the backbone alone,
    then the architecture's early heads on it, then all together at a small learning rate. Default frozen."""


class DeepSupervisionSection(Section):
    """How the final exit teaches the early ones inside one network."""

    exit_weight: Annotated[float, Field(ge=0.0)] = 0.3
    """Weight of each early exit's loss against the final exit's. Default 0.3."""
    exit_weight_start: Annotated[float, Field(ge=0.0)] | None = None
    """What exit_weight is at the first step, to change in a straight line. Default none: constant."""
    distillation_share: Share = 1.0
    """How much of an early exit's loss comes from the final exit, the rest from labels and teacher.
    Default 1.0; between 0 and 1 it is Be Your Own Teacher."""
    distillation_temperature: Temperature = 4.0
    """Softens the final exit and the early one. Default 4.0."""
    hint_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the distance between early exits' embeddings and the final exit's. Default 0.0."""
    gradient_equilibrium: bool = False
    """Whether every exit behind a stage has the same share in its gradient. Default false."""


class ScheduleSection(Section):
    """AdamW under a one-cycle learning rate, the same for every generation."""

    epochs: Count = 20
    """Passes over the train split a generation. Default 20."""
    batch_rows: Annotated[int, Field(ge=2)] = 32
    """Rows a step. Default 32."""
    learning_rate: Positive = 0.002
    """The peak of the cycle. Default 0.002."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0001
    """AdamW's decoupled decay. Default 0.0001."""
    warm_up_share: Share = 0.2
    """Share of the steps in which the learning rate rises. Default 0.2."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16 autocast, or fp32; auto takes bf16 where the device multiplies it itself. Default auto."""


class BaselinesSection(Section):
    """Networks without exits that the report compares with."""

    static: bool = False
    """Whether to train the backbone without exits, and a smaller network of the default point's cost,
    once from labels and once taught. Default false: the three take up to twice a generation's time."""
