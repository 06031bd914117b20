"""The results of `attach`, written to `record.json`; the source of the report.

Shares of multiply-adds and milliseconds are relative to the *file*, without heads. In the manifest they are
relative to full depth with its heads.
"""

from pathlib import Path

from serving.repository.manifest import MANIFEST_FILE
from serving.repository.repository import file_digest
from training.attach.settings import AttachSettings
from training.recipe.section import Section


class LevelRecord(Section):
    """A depth of the network where a head was tried."""

    tensor: str
    row_shape: tuple[int, ...]
    cost_share: float
    """Share of the file's multiply-adds before the tensor."""
    agreement: float | None
    """Share of tune rows for which its head answers as the network does; None with --cut."""
    leaving: float | None
    """Share of tune rows that leave there if it is the only early exit; None with --cut."""
    chosen: bool


class CurveRecord(Section):
    """The trade-offs of the best set with a given number of early exits, on the tune split."""

    exits: int
    disagreement: tuple[float, ...]
    cost_share: tuple[float, ...]


class AttachedPoint(Section):
    """One operating point on the test split."""

    cost_share: float
    time_shares: dict[int, float]
    """Time of a batch divided by the file's time for the same batch, by the number of rows."""
    disagreements: int
    correct: int | None
    """None without labels."""


class AttachRecord(Section):
    """The results, and the version they were published as."""

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
    """From start to publishing; the time of an earlier, interrupted run is not counted."""
    hardware: str

    def is_published_in(self, model_repository: Path) -> bool:
        """Check whether the model repository contains the version, unchanged."""
        folder = model_repository.resolve() / self.settings.name / str(self.version)
        manifest = folder / MANIFEST_FILE
        return (
            folder == Path(self.published)
            and manifest.is_file()
            and file_digest(manifest) == self.manifest_sha256
        )
