"""What one attaching was asked to do: all that its result depends on, beside the files themselves.

Knows nothing of how it is done.
"""

from typing import Annotated, Literal

from pydantic import Field

from serving.repository.manifest import NAME_PATTERN
from training.attach.goals import goals
from training.attach.heads.training import HeadTraining
from training.exits.goals import AgreementGoal
from training.recipe.section import Count, OpenShare, Section, Seed

MOST_EXITS = 7


class AttachSettings(Section):
    """The options of `python -m training attach` that its result depends on."""

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
    """Whether heads also learn from altered copies of head rows, where the inputs allow. Default true."""
    heads: HeadTraining = HeadTraining()
    """How every head is built and trained."""
    epsilon: OpenShare = 0.01
    """Certified bound of `balanced`. Default 0.01."""
    fast_epsilon: OpenShare = 0.03
    """Certified bound of `fast`. Default 0.03."""
    delta: OpenShare = 0.05
    """Chance that a certificate may be wrong. Default 0.05."""
    certified_by: Literal["disagreement", "harm"] = "disagreement"
    """The risk that is bounded; harm needs labels. Default disagreement."""
    split_rows: dict[str, Count] = Field(default_factory=dict)
    """Sizes of splits by name; default: by what certificates need."""
    labels: tuple[str, ...] = ()
    """Class names in the order of the logits; default: their numbers."""
    seed: Seed = 0
    """Seeds the splits and the heads. Default 0."""

    @property
    def goals(self) -> dict[str, AgreementGoal]:
        """What each published point aims at, by name; `exact` aims at nothing."""
        return goals(self.epsilon, self.fast_epsilon, self.delta, self.certified_by)
