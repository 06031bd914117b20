"""What an attaching found: `record.json`, from which the report is written.

Shares of multiply-adds and milliseconds here are of the *file's own*, without heads. The manifest's are
of full depth with its heads, as everywhere else.
"""

from pathlib import Path

from serving.repository.manifest import MANIFEST_FILE
from serving.repository.repository import file_digest
from training.attach.settings import AttachSettings
from training.recipe.section import Section


class LevelRecord(Section):
    """A place in the network where an exit was considered."""

    tensor: str
    row_shape: tuple[int, ...]
    cost_share: float
    """Of the file's multiply-adds, before this place."""
    agreement: float | None
    """Share of tune rows that its head answers as the network does; None where --cut chose."""
    leaving: float | None
    """Share of tune rows that leave there where it is the only early exit."""
    chosen: bool


class CurveRecord(Section):
    """What the best set of some number of early exits can trade, on the tune split."""

    exits: int
    disagreement: tuple[float, ...]
    cost_share: tuple[float, ...]


class AttachedPoint(Section):
    """One operating point on the test split."""

    cost_share: float
    time_shares: dict[int, float]
    """Milliseconds by batch rows, as a share of the file's own at the same batch."""
    disagreements: int
    correct: int | None
    """None without labels."""


class AttachRecord(Section):
    """What was found and published."""

    settings: AttachSettings
    version: int
    published: str
    """The version's folder, absolute."""
    manifest_sha256: str
    created: str
    split_rows: dict[str, int]
    repeats: int
    levels: tuple[LevelRecord, ...]
    curves: tuple[CurveRecord, ...]
    sets_tried: int
    network_multiply_adds: int
    points: dict[str, AttachedPoint]
    test_rows: int
    final_correct: int | None
    file_milliseconds: dict[int, float]
    stage_milliseconds: dict[int, tuple[float, ...]]
    parity: str
    seconds: float
    """From start to publishing, without what an earlier run had finished."""
    hardware: str

    def is_published_in(self, model_repository: Path) -> bool:
        """Whether the version lies in that model repository as it was published."""
        place = model_repository.resolve() / self.settings.name / str(self.version)
        manifest = place / MANIFEST_FILE
        return (
            place == Path(self.published)
            and manifest.is_file()
            and file_digest(manifest) == self.manifest_sha256
        )
