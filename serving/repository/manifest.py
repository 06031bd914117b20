"""The manifest: the description of a published model version, and its reader.

`models/README.md` specifies the format with MUST and MAY; this module specifies it with types. The reader
defines the format: training creates objects of these classes and writes them as JSON. Independent of
onnxruntime, gRPC and the location of a repository.

Shapes start with -1 for the rows of a batch. `E` exits, `K` classes.
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
"""The format that is written. Older formats can be read; keys that they lack have defaults."""
READABLE_FORMATS = (1, 2, FORMAT_VERSION)
FIRST_WITHOUT_LABELS = 3
"""The first format that allows versions without labels, made by attaching exits to an existing network."""
MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
EXACT_POINT = "exact"
"""The point at which every row goes to the final exit."""
CUSTOM_POINT = "custom"
"""The name, in metrics, of thresholds that a caller sets itself. No published point has this name."""
RESERVED_TENSORS = frozenset({"rows", "logits"})
"""Tensor names in stages: `rows` are the slots to gather, `logits` the output."""
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
NAME_RULE = "1 to 64 letters, digits, dots, underscores or hyphens, beginning with a letter or digit"
"""`NAME_PATTERN` in words, for error messages."""

Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
CalibrationTemperature = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]
"""The range includes every fitted temperature. Far outside it, divided logits are not finite."""
Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
UtcTime = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""A plain file name, which cannot point outside its folder."""
SourceName = Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f\x7f]{1,255}$")]
"""The name of a user's file, without its folder."""
TensorName = Annotated[str, Field(min_length=1)]
Thresholds = tuple[Share | None, ...]
"""The smallest confidence that may leave, one for each early exit; None disables the exit."""


class Risk(StrEnum):
    """The risk that a certificate bounds, as a share of rows."""

    DISAGREEMENT = "disagreement"
    """The answer differs from the final exit's."""
    HARM = "harm"
    """The answer is wrong and the final exit's is right."""


class ManifestSection(BaseModel):
    """A frozen part of the manifest that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TensorSpec(ManifestSection):
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


class Stage(ManifestSection):
    """A contiguous piece of backbone with its head: one ONNX file."""

    file: FileName
    sha256: Digest
    multiply_adds: Annotated[int, Field(ge=1)]
    """Multiply-adds of only this stage and its head, for one row."""
    parameters: Count
    features: tuple[TensorSpec, ...]
    """The tensors that the next stage gathers from; empty for the last stage."""


class ConfidenceShares(ManifestSection):
    """A histogram of confidences, the baseline of a server's drift detection."""

    edges: tuple[Share, ...]
    """Rising. Bin i contains confidences from edge i - 1, inclusive, to edge i, exclusive."""
    shares: tuple[Share, ...]
    """One for each bin: one more than edges."""

    @model_validator(mode="after")
    def _bins_are_in_order(self) -> Self:
        if len(self.shares) != len(self.edges) + 1 or any(b <= a for a, b in pairwise(self.edges)):
            raise ValueError(
                f"edges must rise, with one share more than edges, got {list(self.edges)} "
                f"and {len(self.shares)} shares"
            )
        return self


class Exit(ManifestSection):
    """One exit, with its accuracy and calibration if every row leaves there."""

    calibration_temperature: CalibrationTemperature
    accuracy: Share | None
    """None without labels."""
    expected_calibration_error: Share | None
    """None without labels."""
    split: str
    n: Annotated[int, Field(ge=1)]
    confidence: ConfidenceShares | None = None
    """The confidences of all n rows; None in format 1."""


class Certificate(ManifestSection):
    """A statement that a risk is at most epsilon, with confidence 1 - delta."""

    epsilon: Annotated[float, Field(gt=0.0, lt=1.0)]
    delta: Annotated[float, Field(gt=0.0, lt=1.0)]
    n: Annotated[int, Field(ge=1)]
    disagreements: Count
    """Rows of the certify split whose answer differs from the final exit's."""
    method: str
    risk: Risk = Risk.DISAGREEMENT
    harms: Count | None = None
    """Disagreements where the final exit's answer is right; None in format 1 and without labels."""

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if self.disagreements > self.n:
            raise ValueError(f"disagreements: expected at most n, {self.n}, got {self.disagreements}")
        if self.harms is not None and self.harms > self.disagreements:
            raise ValueError(f"harms: expected at most disagreements, {self.disagreements}, got {self.harms}")
        if self.risk is Risk.HARM and self.harms is None:
            raise ValueError("harms: expected a count if the risk is harm, got none")
        return self

    @property
    def promises_agreement(self) -> bool:
        """Whether the risk is disagreement, which a server can test without labels."""
        return self.risk is Risk.DISAGREEMENT


class OperatingPoint(ManifestSection):
    """Named thresholds, with their results on a split."""

    thresholds: Thresholds
    accuracy: Share | None
    """None without labels."""
    disagreement: Share
    """Share of rows whose answer differs from the final exit's."""
    multiply_adds_share: Share
    """Mean multiply-adds of a row, divided by those of the full depth."""
    exit_shares: tuple[Share, ...]
    split: str
    n: Annotated[int, Field(ge=1)]
    certificate: Certificate | None
    """None if the point equals full depth or was published without a certificate."""


class ParetoPoint(ManifestSection):
    """Thresholds on the Pareto front of cost and one of the losses."""

    thresholds: Thresholds
    accuracy_loss: Annotated[float, Field(ge=-1.0, le=1.0)] | None
    """Relative to the final exit; negative if early exits were right more often. None without labels."""
    disagreement: Share
    multiply_adds_share: Share


class ParetoPath(ManifestSection):
    """The trade-off from which the operating points were chosen, on the split used for the choice.

    It is the union of several Pareto fronts, each of cost against one loss. So some points are not optimal
    for accuracy alone.
    """

    split: str
    n: Annotated[int, Field(ge=1)]
    points: tuple[ParetoPoint, ...]


class DatasetProvenance(ManifestSection):
    """The data and its splits. Digests are SHA-256 of the data's bytes and of each split's row numbers."""

    name: str
    digest: Digest
    split_seed: int
    split_digests: dict[str, Digest]
    test_rows: tuple[Count, ...] | None
    """Row numbers in the source's order, if the dataset has no official test split."""


class RetargetedFrom(ManifestSection):
    """The version from which a retargeted version took its stages, and the options used."""

    version: Annotated[int, Field(ge=1)]
    options: dict[str, Any]
    """The options as given by the user."""
    goals: dict[str, dict[str, Any]]
    """The goal of every operating point except `exact`."""
    data: dict[str, Any] | None
    """File and split seed of the user's own rows; None if the recipe's splits were used."""
    packages: dict[str, str] = {}
    """Versions of the packages that computed the new figures; empty if they were not recorded."""

    @model_validator(mode="after")
    def _goals_are_of_points(self) -> Self:
        for name in self.goals:
            _check_name(name)
            if name == EXACT_POINT:
                raise ValueError(f'goals: expected none for "{EXACT_POINT}", got one')
        return self


class AttachedTo(ManifestSection):
    """The existing network to which exits were attached. The stages contain its weights."""

    file: SourceName
    sha256: Digest
    """Digest of the whole file."""
    logits: TensorName
    """The tensor of the network's answer."""
    cuts: tuple[TensorName, ...]
    """The tensors at which the network was cut into stages, in depth order."""
    options: dict[str, Any]
    """The options as given by the user."""
    rows: str
    """A note that the figures hold only if the network was not trained on these rows."""


class Provenance(ManifestSection):
    """The origin of a version."""

    recipe: dict[str, Any]
    """The recipe of the training run; empty if exits were attached."""
    seed: int
    generation: Count
    dataset: DatasetProvenance
    packages: dict[str, str]
    retargeted_from: RetargetedFrom | None = None
    """None unless the version was retargeted."""
    attached_to: AttachedTo | None = None
    """None if a recipe trained the whole network."""
    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    """The id of the output folder in which the version was made; None if there was none or it is unknown."""

    @model_validator(mode="after")
    def _attached_without_a_recipe(self) -> Self:
        if self.attached_to is not None and self.recipe:
            keys = shown(", ".join(self.recipe))
            raise ValueError(f"recipe: expected none beside attached_to, got the keys {keys}")
        return self


class Manifest(ManifestSection):
    """The data that a server needs to serve a version, and people need to assess it."""

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
            raise ValueError(f"exits: expected one for each stage, {exits}, got {len(self.exits)}")
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
    def _matches_its_format(self) -> Self:
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
        """Yield every figure that needs labels, with its path in the manifest."""
        for number, exit_ in enumerate(self.exits):
            yield f"exits.{number}.accuracy", exit_.accuracy
            yield f"exits.{number}.expected_calibration_error", exit_.expected_calibration_error
        for name, point in self.operating_points.items():
            yield f"operating_points.{name}.accuracy", point.accuracy
        for number, row in enumerate(self.pareto_path.points):
            yield f"pareto_path.points.{number}.accuracy_loss", row.accuracy_loss

    def _point(self, name: str) -> OperatingPoint:
        if name not in self.operating_points:
            raise ValueError(f'operating point "{name}" is missing, known: {sorted(self.operating_points)}')
        return self.operating_points[name]

    def operating_point(self, name: str) -> OperatingPoint:
        """Return the operating point of that name; raise InvalidRequest if there is none."""
        if name not in self.operating_points:
            known = ", ".join(self.operating_points)
            raise InvalidRequest(
                f'operating_point "{shown(name)}" is unknown to model "{self.name}": expected one of {known}'
            )
        return self.operating_points[name]

    @property
    def multiply_adds(self) -> tuple[int, ...]:
        """Multiply-adds of a row that leaves at each exit: cumulative sums over the stages."""
        total, sums = 0, []
        for stage in self.stages:
            total += stage.multiply_adds
            sums.append(total)
        return tuple(sums)

    def to_json(self) -> str:
        """Return the manifest's text on disk."""
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
            f"operating point {shown(point)!r}: expected {NAME_RULE}, and not the name {CUSTOM_POINT}"
        )


def _check_thresholds(where: str, thresholds: Thresholds, exits: int) -> None:
    if len(thresholds) != exits - 1:
        raise ValueError(f"thresholds of {where}: expected {exits - 1}, got {len(thresholds)}")


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest file; raise InvalidManifest with one line that names the faulty key."""
    try:
        size = path.stat().st_size
        if size > MAX_MANIFEST_BYTES:
            raise InvalidManifest(f"{path}: expected at most {MAX_MANIFEST_BYTES} bytes, got {size}")
        text = path.read_bytes()
        document = json.loads(text)
    except OSError as error:
        raise InvalidManifest(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(f"{path}: not valid JSON: {error}") from error
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
