"""The settings of `attach`, on which its result depends, and the goals of its operating points."""

from typing import Annotated, Any, Literal

from pydantic import Field

from serving.repository.manifest import NAME_PATTERN, Manifest
from training.attach.rows.splits import TUNE_SHARE
from training.exits.goals import DEFAULT_POINT, AgreementGoal, Goal
from training.recipe.section import Count, OpenShare, Positive, Section, Seed

FAST_POINT = "fast"
MOST_EXITS = 7


class HeadTraining(Section):
    """How each head is built and trained."""

    kind: Literal["mlp", "linear"] = "mlp"
    """`mlp` has one hidden layer, `linear` none. Default mlp."""
    hidden: Annotated[int, Field(ge=1, le=4096)] = 64
    """Hidden units of an mlp. Default 64."""
    epochs: Count = 30
    """Passes over the head rows if they have no altered copies. Default 30."""
    epochs_with_copies: Count = 8
    """Passes over the head rows and their altered copies. Default 8: with 30, heads overfit."""
    batch_rows: Annotated[int, Field(ge=1)] = 256
    """Rows per step. Smaller if training would have fewer than 1,000 steps. Default 256."""
    learning_rate: Positive = 0.008
    """Peak learning rate of the schedule, which has one cycle. Default 0.008."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    """AdamW's decoupled decay. Default 0.1."""

    def with_copies(self) -> "HeadTraining":
        """Return settings with the number of passes for rows with copies."""
        return self.model_copy(update={"epochs": self.epochs_with_copies})


class AttachSettings(Section):
    """The options of `python -m training attach` on which its result depends."""

    name: Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
    """The model's name in the repository."""
    model: str
    """Path of the ONNX file."""
    data: str
    """Path of the .npz file with rows that the network was not trained on."""
    logits: str | None = None
    """The tensor to reproduce; default: found in the file."""
    exits: Annotated[int, Field(ge=1, le=MOST_EXITS)] = 3
    """Most early exits. Default 3."""
    cuts: Annotated[tuple[str, ...], Field(max_length=MOST_EXITS)] = ()
    """Tensors to cut at, each with an exit; default: chosen."""
    augmentation: bool = True
    """Whether heads also train on altered copies of head rows, if the inputs allow it. Default true."""
    heads: HeadTraining = HeadTraining()
    """How each head is built and trained."""
    epsilon: OpenShare = 0.01
    """Certified bound of `balanced`. Default 0.01."""
    fast_epsilon: OpenShare = 0.03
    """Certified bound of `fast`. Default 0.03."""
    delta: OpenShare = 0.05
    """Chance that a certificate is wrong. Default 0.05."""
    certified_by: Literal["disagreement", "harm"] = "disagreement"
    """The bounded risk; harm needs labels. Default disagreement."""
    split_rows: dict[str, Count] = Field(default_factory=dict)
    """Sizes of splits by name; default: computed from epsilon and delta."""
    labels: tuple[str, ...] = ()
    """Class names in the order of the logits; default: their numbers."""
    seed: Seed = 0
    """Seeds the splits and the heads. Default 0."""

    @property
    def goals(self) -> dict[str, AgreementGoal]:
        """The goal of each published point, by name; `exact` has none."""
        return _goals(self.epsilon, self.fast_epsilon, self.delta, self.certified_by)


def published_options(manifest: Manifest) -> dict[str, Any]:
    """Return the settings that an attached version was published with, as JSON values."""
    attached_to = manifest.provenance.attached_to
    assert attached_to is not None, f"{manifest.name} was trained by a recipe"
    return attached_to.options


def published_goals(manifest: Manifest) -> dict[str, Goal]:
    """Return the goals that an attached version was published with, by point."""
    options = published_options(manifest)
    return dict(
        _goals(options["epsilon"], options["fast_epsilon"], options["delta"], options["certified_by"])
    )


def _goals(
    epsilon: float, fast_epsilon: float, delta: float, certified_by: Literal["disagreement", "harm"]
) -> dict[str, AgreementGoal]:
    return {
        name: AgreementGoal(tune_share=TUNE_SHARE, epsilon=bound, delta=delta, certified_by=certified_by)
        for name, bound in ((DEFAULT_POINT, epsilon), (FAST_POINT, fast_epsilon))
    }
