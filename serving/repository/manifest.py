"""The manifest: what one published model version says of itself, and how it is read.

`models/README.md` is the format in words, with MUST and MAY; this module is the same in types.
The reader owns the format: training fills these classes in and writes their JSON. Knows nothing of
onnxruntime, of gRPC, or of where a repository lies.

Shapes lead with -1 for the rows of a batch. `E` exits, `K` classes.
"""

import json
import re
from collections.abc import Iterator
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serving.datatypes import Datatype
from serving.errors import InvalidManifest, InvalidRequest, first_complaint, shown

FORMAT_VERSION: Literal[3] = 3
"""What is written; what is read may also be of the formats before, in which newer keys have defaults."""
READABLE_FORMATS = (1, 2, FORMAT_VERSION)
FIRST_WITHOUT_LABELS = 3
"""The first format of versions that need no labels, made from a network that existed."""
MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
EXACT_POINT = "exact"
"""The point at which every row goes to the final exit."""
CUSTOM_POINT = "custom"
"""What metrics call thresholds of a caller's own; no published point has that name."""
RESERVED_TENSORS = frozenset({"rows", "logits"})
"""What stages call the slots they gather and the logits they return."""
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
CalibrationTemperature = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]
"""Wider than any that is fitted; far outside, logits divided by it are no finite numbers any more."""
Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
UtcTime = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""A plain name: it cannot leave its folder."""
SourceName = Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f\x7f]{1,255}$")]
"""The name of somebody else's file, without its folder."""
TensorName = Annotated[str, Field(min_length=1)]
Thresholds = tuple[Share | None, ...]
"""Smallest confidence that may leave, one an early exit; None disables the exit."""


class Risk(StrEnum):
    """What a certificate bounds, as a share of rows."""

    DISAGREEMENT = "disagreement"
    """The answer differs from the final exit's."""
    HARM = "harm"
    """The answer is wrong where the final exit's is right."""


class Section(BaseModel):
    """A frozen part of the manifest that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TensorSpec(Section):
    """Name, datatype and shape of a tensor; the first dimension, -1, counts rows."""

    name: TensorName
    datatype: Datatype
    shape: tuple[int, ...]

    @model_validator(mode="after")
    def _only_the_batch_is_dynamic(self) -> Self:
        if not self.shape or self.shape[0] != -1 or any(size < 1 for size in self.shape[1:]):
            raise ValueError(f"shape must be [-1, ...] with sizes of at least 1, got {list(self.shape)}")
        return self

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.shape[1:]


class Stage(Section):
    """A contiguous piece of backbone with its head: one ONNX file."""

    file: FileName
    sha256: Digest
    multiply_adds: Annotated[int, Field(ge=1)]
    """Of this stage and its head alone, for one row."""
    parameters: Count
    features: tuple[TensorSpec, ...]
    """What the next stage gathers from; empty for the last stage."""


class ConfidenceShares(Section):
    """How confidences are spread: what a server compares its own with, to notice drift."""

    edges: tuple[Share, ...]
    """Rising; bin i holds the confidences of at least edge i - 1 and less than edge i."""
    shares: tuple[Share, ...]
    """One more than edges."""

    @model_validator(mode="after")
    def _bins_are_in_order(self) -> Self:
        if len(self.shares) != len(self.edges) + 1 or any(b <= a for a, b in pairwise(self.edges)):
            raise ValueError(
                f"edges must rise, with one share more than edges, got {list(self.edges)} "
                f"and {len(self.shares)} shares"
            )
        return self


class Exit(Section):
    """Where an answer may leave, and how good it is when every row leaves there."""

    calibration_temperature: CalibrationTemperature
    accuracy: Share | None
    """None where no labels were given."""
    expected_calibration_error: Share | None
    """None where no labels were given."""
    split: str
    n: Annotated[int, Field(ge=1)]
    confidence: ConfidenceShares | None = None
    """Of all n rows; None in format 1."""


class Certificate(Section):
    """The promise that a risk is at most epsilon, with confidence 1 - delta."""

    epsilon: Annotated[float, Field(gt=0.0, lt=1.0)]
    delta: Annotated[float, Field(gt=0.0, lt=1.0)]
    n: Annotated[int, Field(ge=1)]
    disagreements: Count
    """Rows of the certify split whose answer differs from the final exit's."""
    method: str
    risk: Risk = Risk.DISAGREEMENT
    harms: Count | None = None
    """Of those that differ, how many the final exit had right; None in format 1 and without labels."""

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if self.disagreements > self.n:
            raise ValueError(f"disagreements: expected at most n, {self.n}, got {self.disagreements}")
        if self.harms is not None and self.harms > self.disagreements:
            raise ValueError(f"harms: expected at most disagreements, {self.disagreements}, got {self.harms}")
        if self.risk is Risk.HARM and self.harms is None:
            raise ValueError("harms: expected a count, for the risk is harm, got none")
        return self

    @property
    def promises_agreement(self) -> bool:
        """Whether a server can see for itself, without labels, that the promise is broken."""
        return self.risk is Risk.DISAGREEMENT


class OperatingPoint(Section):
    """Named thresholds with what they gave on a split."""

    thresholds: Thresholds
    accuracy: Share | None
    """None where no labels were given."""
    disagreement: Share
    """Share of rows whose answer differs from the final exit's."""
    multiply_adds_share: Share
    """Mean multiply-adds of a row over those of the full depth."""
    exit_shares: tuple[Share, ...]
    split: str
    n: Annotated[int, Field(ge=1)]
    certificate: Certificate | None
    """None where the point equals full depth, or was published uncertified."""


class ParetoPoint(Section):
    """One choice of thresholds worth having: in some loss and cost, no other found beats it in both."""

    thresholds: Thresholds
    accuracy_loss: Annotated[float, Field(ge=-1.0, le=1.0)] | None
    """Against the final exit; negative where leaving early was more often right. None without labels."""
    disagreement: Share
    multiply_adds_share: Share


class ParetoPath(Section):
    """The trade-off that the operating points were chosen from, on the split that chose them.

    It joins the fronts of cost against several losses, so in accuracy alone some points are beaten.
    """

    split: str
    n: Annotated[int, Field(ge=1)]
    points: tuple[ParetoPoint, ...]


class DatasetProvenance(Section):
    """Which data, cut how: digests are SHA-256 over bytes and over row numbers."""

    name: str
    digest: Digest
    split_seed: int
    split_digests: dict[str, Digest]
    test_rows: tuple[Count, ...] | None
    """Row numbers in the source's own order, where the set has no official test split."""


class RetargetedFrom(Section):
    """How a version came from another one, whose stages it has."""

    version: Annotated[int, Field(ge=1)]
    options: dict[str, Any]
    """What was asked for, as it was given."""
    goals: dict[str, dict[str, Any]]
    """What every operating point aims at, but `exact`."""
    data: dict[str, Any] | None
    """File and split seed of the user's own rows; None where the splits are the recipe's."""
    packages: dict[str, str] = {}
    """Versions of what computed the figures that are new; empty where that was not written down."""

    @model_validator(mode="after")
    def _goals_are_of_points(self) -> Self:
        for name in self.goals:
            _check_name(name)
            if name == EXACT_POINT:
                raise ValueError(f'goals: expected none for "{EXACT_POINT}", which aims at nothing, got one')
        return self


class AttachedTo(Section):
    """The finished network that exits were attached to, and whose weights the stages have."""

    file: SourceName
    sha256: Digest
    """Of the whole file."""
    logits: TensorName
    """The tensor that is the network's answer."""
    cuts: tuple[TensorName, ...]
    """The tensors at which it was cut into stages, in depth order."""
    options: dict[str, Any]
    """What was asked for, as it was given."""
    rows: str
    """States that the figures are of rows that must not have been trained on."""


class Provenance(Section):
    """Where a version comes from."""

    recipe: dict[str, Any]
    """Of the training run; empty where exits were attached."""
    seed: int
    generation: Count
    dataset: DatasetProvenance
    packages: dict[str, str]
    retargeted_from: RetargetedFrom | None = None
    """None where it was trained, or its exits attached."""
    attached_to: AttachedTo | None = None
    """None where a recipe trained the whole network."""
    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    """Of the output folder that it was made in; None where it has none, or that was not written down."""

    @model_validator(mode="after")
    def _attached_without_a_recipe(self) -> Self:
        if self.attached_to is not None and self.recipe:
            keys = shown(", ".join(self.recipe))
            raise ValueError(f"recipe: expected none beside attached_to, got the keys {keys}")
        return self


class Manifest(Section):
    """Everything that a server needs to serve a version, and a reader to judge it."""

    format_version: Literal[1, 2, 3]
    name: str = Field(pattern=f"^{NAME_PATTERN}$")
    version: Annotated[int, Field(ge=1)]
    created: UtcTime
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    confidence: Literal["max_probability"]
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    exits: tuple[Exit, ...]
    operating_points: dict[str, OperatingPoint]
    default_operating_point: str
    pareto_path: ParetoPath
    provenance: Provenance

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        exits = len(self.stages)
        if len(self.exits) != exits:
            raise ValueError(f"exits must be one a stage: expected {exits}, got {len(self.exits)}")
        if self.stages[-1].features:
            raise ValueError("the last stage must have no features: no stage follows it")
        for number, stage in enumerate(self.stages[:-1]):
            if not stage.features:
                raise ValueError(f"stage {number} must name the features that stage {number + 1} reads")
        _check_tensor_names(self.inputs, "inputs")
        for number, stage in enumerate(self.stages):
            _check_tensor_names(stage.features, f"features of stage {number}")
        for name, point in self.operating_points.items():
            _check_point(name, point, exits)
        for number, row in enumerate(self.pareto_path.points):
            _check_thresholds(f"point {number} of pareto_path", row.thresholds, exits)
        if any(threshold is not None for threshold in self._point(EXACT_POINT).thresholds):
            raise ValueError(f'operating point "{EXACT_POINT}" must disable every early exit')
        self._point(self.default_operating_point)
        return self

    @model_validator(mode="after")
    def _says_what_its_format_can(self) -> Self:
        missing = [place for place, figure in self._figures_of_labels() if figure is None]
        measured = [place for place, figure in self._figures_of_labels() if figure is not None]
        if self.format_version < FIRST_WITHOUT_LABELS:
            if missing:
                raise ValueError(f"{missing[0]}: expected a number in format {self.format_version}, got null")
            if self.provenance.attached_to is not None:
                raise ValueError(
                    f"provenance.attached_to: expected none in format {self.format_version}, got one"
                )
        if missing and measured:
            raise ValueError(
                "accuracy, expected_calibration_error and accuracy_loss: expected all or none to be null, "
                f"got null in {missing[0]} and a number in {measured[0]}"
            )
        return self

    def _figures_of_labels(self) -> Iterator[tuple[str, float | None]]:
        """Yield every figure that only labels can give, with its place."""
        for number, each in enumerate(self.exits):
            yield f"exits.{number}.accuracy", each.accuracy
            yield f"exits.{number}.expected_calibration_error", each.expected_calibration_error
        for name, point in self.operating_points.items():
            yield f"operating_points.{name}.accuracy", point.accuracy
        for number, row in enumerate(self.pareto_path.points):
            yield f"pareto_path.points.{number}.accuracy_loss", row.accuracy_loss

    def _point(self, name: str) -> OperatingPoint:
        if name not in self.operating_points:
            raise ValueError(f'operating point "{name}" is missing, known: {sorted(self.operating_points)}')
        return self.operating_points[name]

    def operating_point(self, name: str) -> OperatingPoint:
        """Give the operating point of that name, or raise InvalidRequest."""
        if name not in self.operating_points:
            known = ", ".join(self.operating_points)
            raise InvalidRequest(
                f'operating_point "{shown(name)}" is unknown to model "{self.name}": expected one of {known}'
            )
        return self.operating_points[name]

    @property
    def multiply_adds(self) -> tuple[int, ...]:
        """Multiply-adds of a row that leaves at each exit: running sums over the stages."""
        total, sums = 0, []
        for stage in self.stages:
            total += stage.multiply_adds
            sums.append(total)
        return tuple(sums)

    def to_json(self) -> str:
        """Write the manifest as it stands on disk."""
        return self.model_dump_json(indent=2) + "\n"


def _check_tensor_names(tensors: tuple[TensorSpec, ...], where: str) -> None:
    names = [tensor.name for tensor in tensors]
    if len(set(names)) != len(names) or RESERVED_TENSORS & set(names):
        raise ValueError(f"{where}: expected distinct names other than rows and logits, got {names}")


def _check_point(name: str, point: OperatingPoint, exits: int) -> None:
    _check_name(name)
    _check_thresholds(f'operating point "{name}"', point.thresholds, exits)
    if len(point.exit_shares) != exits:
        raise ValueError(
            f'exit_shares of operating point "{name}": expected {exits}, got {len(point.exit_shares)}'
        )


def _check_name(point: str) -> None:
    if not re.fullmatch(NAME_PATTERN, point) or point == CUSTOM_POINT:
        raise ValueError(
            f"operating point {shown(point)!r}: expected a name matching {NAME_PATTERN}, not {CUSTOM_POINT}"
        )


def _check_thresholds(where: str, thresholds: Thresholds, exits: int) -> None:
    if len(thresholds) != exits - 1:
        raise ValueError(f"thresholds of {where}: expected {exits - 1}, got {len(thresholds)}")


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest file; raise InvalidManifest with one line that names the culprit."""
    try:
        size = path.stat().st_size
        if size > MAX_MANIFEST_BYTES:
            raise InvalidManifest(f"{path}: expected at most {MAX_MANIFEST_BYTES} bytes, got {size}")
        text = path.read_bytes()
        document = json.loads(text)
    except OSError as error:
        raise InvalidManifest(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(f"{path}: not whole JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidManifest(f"{path}: expected a JSON object, got {type(document).__name__}")
    written = document.get("format_version")
    if written not in READABLE_FORMATS or isinstance(written, bool):
        known = f"{', '.join(map(str, READABLE_FORMATS[:-1]))} or {READABLE_FORMATS[-1]}"
        raise InvalidManifest(f"{path}: format_version: expected {known}, got {shown(repr(written))}")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise InvalidManifest(f"{path}: {first_complaint(error)}") from error
