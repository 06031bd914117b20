"""What the points of an attached version aim at. Needs no PyTorch."""

from typing import Any, Literal

from serving.repository.manifest import Manifest
from training.attach.rows.splits import AIM
from training.exits.goals import DEFAULT_POINT, AgreementGoal, Goal

FAST_POINT = "fast"


def goals(
    epsilon: float, fast_epsilon: float, delta: float, certified_by: Literal["disagreement", "harm"]
) -> dict[str, AgreementGoal]:
    """Return what each published point aims at, by name; `exact` aims at nothing."""
    return {
        name: AgreementGoal(tune_share=AIM, epsilon=bound, delta=delta, certified_by=certified_by)
        for name, bound in ((DEFAULT_POINT, epsilon), (FAST_POINT, fast_epsilon))
    }


def attached_goals(manifest: Manifest) -> dict[str, Goal]:
    """Return what the points of an attached version aimed at when its exits were attached."""
    options = options_of(manifest)
    return dict(goals(options["epsilon"], options["fast_epsilon"], options["delta"], options["certified_by"]))


def options_of(manifest: Manifest) -> dict[str, Any]:
    """Return what an attached version was made with."""
    attached_to = manifest.provenance.attached_to
    assert attached_to is not None, f"{manifest.name} was trained by a recipe"
    return attached_to.options
