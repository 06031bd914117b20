import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.datatypes import DTYPES
from serving.errors import InvalidManifest, InvalidRequest
from serving.repository.manifest import MAX_MANIFEST_BYTES, AttachedTo, Manifest, Risk, read_manifest
from serving.repository.repository import PublishedVersion

FORMAT_1 = Path(__file__).parent / "format-1.json"
"""Written by the first release: `git show 322b04a:models/fashion-mnist/1/manifest.json`."""
FORMAT_2 = Path(__file__).parent / "format-2.json"
"""The manifest of the released version: `git show fb7bd22:models/fashion-mnist/2/manifest.json`."""

Document = dict[str, Any]
Change = Callable[[Document], object]


@pytest.fixture
def document(version: PublishedVersion) -> Document:
    """A valid manifest as JSON, which the test changes."""
    parsed: Document = json.loads(version.manifest.to_json())
    return parsed


ATTACHED_TO: Document = {
    "file": "Resnet 50 (v2).onnx",
    "sha256": "ab" * 32,
    "logits": "/classifier/Gemm_output_0",
    "cuts": ["/layer1/Relu_output_0", "/layer2/Relu_output_0"],
    "options": {"exits": 3, "cut": None},
    "rows": "The figures are of rows that must not have been trained on.",
}


@pytest.fixture
def attached(document: Document) -> Document:
    """The manifest of a version whose exits were attached without labels, and which has two inputs."""
    for each in document["exits"]:
        each |= {"accuracy": None, "expected_calibration_error": None}
    for point in document["operating_points"].values():
        point["accuracy"] = None
    for row in document["pareto_path"]["points"]:
        row["accuracy_loss"] = None
    document["inputs"] = [
        {"name": "token_ids", "datatype": "INT64", "shape": [-1, 6]},
        {"name": "attention_mask", "datatype": "BOOL", "shape": [-1, 6]},
    ]
    for number, stage in enumerate(document["stages"][:-1]):
        mask = {"name": f"attention_mask_{number}", "datatype": "BOOL", "shape": [-1, 6]}
        stage["features"].append(mask)
    document["labels"] = ["0", "1", "2"]
    document["provenance"] |= {"recipe": {}, "attached_to": dict(ATTACHED_TO)}
    return document


def complaint(folder: Path, content: str | bytes | Document) -> str:
    """Read an invalid manifest; return the error's text after the file's name."""
    path = folder / "manifest.json"
    text = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InvalidManifest) as refusal:
        read_manifest(path)
    message = str(refusal.value)
    assert "\n" not in message
    assert len(message) < 1000
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_what_is_written_is_read_back(version: PublishedVersion, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(version.manifest.to_json())

    assert read_manifest(tmp_path / "manifest.json") == version.manifest


def test_a_manifest_of_format_1_is_read_with_defaults_for_missing_keys() -> None:
    manifest = read_manifest(FORMAT_1)

    assert (manifest.format_version, manifest.name, manifest.version) == (1, "fashion-mnist", 1)
    assert [each.confidence for each in manifest.exits] == [None] * 4
    promises = [point.certificate for point in manifest.operating_points.values() if point.certificate]
    assert [(each.risk, each.harms) for each in promises] == [(Risk.DISAGREEMENT, None)] * 2
    assert all(each.promises_agreement for each in promises)
    assert manifest.provenance.retargeted_from is None


def test_a_manifest_of_format_2_is_read_with_defaults_for_missing_keys() -> None:
    manifest = read_manifest(FORMAT_2)

    assert (manifest.format_version, manifest.name, manifest.version) == (2, "fashion-mnist", 2)
    assert manifest.exits[-1].accuracy == 0.9354
    promise = manifest.operating_points["balanced"].certificate
    assert promise is not None
    assert (promise.epsilon, promise.disagreements, promise.harms) == (0.01, 35, 20)
    assert manifest.provenance.retargeted_from is not None
    assert manifest.provenance.attached_to is None


def test_a_version_without_labels_has_null_for_every_figure_that_needs_them(
    attached: Document, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(attached))

    manifest = read_manifest(tmp_path / "manifest.json")

    assert {(each.accuracy, each.expected_calibration_error) for each in manifest.exits} == {(None, None)}
    assert {point.accuracy for point in manifest.operating_points.values()} == {None}
    assert {row.accuracy_loss for row in manifest.pareto_path.points} == {None}
    assert json.loads(manifest.to_json()) == attached


def test_an_attached_version_names_the_network_that_it_was_attached_to(attached: Document) -> None:
    manifest = Manifest.model_validate_json(json.dumps(attached))

    assert manifest.provenance.attached_to == AttachedTo(
        file="Resnet 50 (v2).onnx",
        sha256="ab" * 32,
        logits="/classifier/Gemm_output_0",
        cuts=("/layer1/Relu_output_0", "/layer2/Relu_output_0"),
        options={"exits": 3, "cut": None},
        rows="The figures are of rows that must not have been trained on.",
    )
    assert [(each.name, each.datatype) for each in manifest.inputs] == [
        ("token_ids", "INT64"),
        ("attention_mask", "BOOL"),
    ]
    assert manifest.stages[0].features[1].name == "attention_mask_0"


def test_an_attached_version_may_have_labels(document: Document) -> None:
    document["provenance"] |= {"recipe": {}, "attached_to": dict(ATTACHED_TO)}

    assert Manifest.model_validate_json(json.dumps(document)).exits[0].accuracy == 0.9


def test_a_retargeting_without_recorded_packages_has_none(document: Document) -> None:
    document["provenance"]["retargeted_from"] = {"version": 1, "options": {}, "goals": {}, "data": None}

    retargeted = Manifest.model_validate_json(json.dumps(document)).provenance.retargeted_from

    assert retargeted is not None
    assert retargeted.packages == {}


@given(st.floats(0, 1), st.floats(0, 1))
def test_thresholds_are_read_back_exactly(version: PublishedVersion, first: float, second: float) -> None:
    point = version.manifest.operating_points["fast"].model_copy(update={"thresholds": (first, second)})
    points = {**version.manifest.operating_points, "fast": point}
    manifest = version.manifest.model_copy(update={"operating_points": points})

    read = Manifest.model_validate_json(manifest.to_json())

    assert read.operating_points["fast"].thresholds == (first, second)


def test_the_document_starts_with_its_format(version: PublishedVersion) -> None:
    assert version.manifest.to_json().startswith('{\n  "format_version": 3,\n')


def test_multiply_adds_are_running_sums(version: PublishedVersion) -> None:
    assert version.manifest.multiply_adds == (10, 30, 100)


def test_the_error_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match=r"manifest.json: cannot be read: No such file"):
        read_manifest(tmp_path / "manifest.json")


def test_the_error_names_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()

    with pytest.raises(InvalidManifest, match=r"manifest.json: cannot be read: Is a directory"):
        read_manifest(tmp_path / "manifest.json")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_json_is_not_valid(version: PublishedVersion, tmp_path: Path, share: float) -> None:
    text = version.manifest.to_json()

    assert "not valid JSON: " in complaint(tmp_path, text[: int(share * len(text))])


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"\x00" * 64, b"[" * 100_000, b'{"a":' * 100_000], ids=range(4)
)
def test_text_that_is_not_json_is_not_valid(tmp_path: Path, content: bytes) -> None:
    assert "not valid JSON: " in complaint(tmp_path, content)


def test_a_manifest_is_an_object(tmp_path: Path) -> None:
    assert complaint(tmp_path, "[1]") == "expected a JSON object, got list"


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    with path.open("wb") as file:
        file.truncate(MAX_MANIFEST_BYTES + 1)

    with pytest.raises(InvalidManifest, match=f"at most {MAX_MANIFEST_BYTES} bytes, got"):
        read_manifest(path)


@pytest.mark.parametrize("written", [0, 4, 99, "1", None, True])
def test_another_format_is_refused_with_both_numbers(
    document: Document, tmp_path: Path, written: object
) -> None:
    assert complaint(tmp_path, document | {"format_version": written}) == (
        f"format_version: expected 1, 2 or 3, got {written!r}"
    )


def test_a_future_format_is_refused_before_its_new_keys(tmp_path: Path) -> None:
    assert complaint(tmp_path, {"format_version": 4, "news": True}) == (
        "format_version: expected 1, 2 or 3, got 4"
    )


def _set(*path: str | int) -> Callable[[object], Change]:
    """Return a function that makes a change of one value in the document."""

    def to(value: object) -> Change:
        def change(document: Document) -> None:
            place: Any = document
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = value

        return change

    return to


FILE = _set("stages", 0, "file")
CERTIFICATE = ("operating_points", "fast", "certificate")
GOALS = ("provenance", "retargeted_from")
SOURCE = ("provenance", "attached_to")
FROM = "provenance.attached_to"
THRESHOLDS = _set("operating_points", "fast", "thresholds")
SHAPE = _set("inputs", 0, "shape")
FEATURES: Document = {"datatype": "FP32", "shape": [-1, 6]}


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        pytest.param(_set("news")(1), "news: unknown key", id="unknown key"),
        pytest.param(_set("stages", 1, "news")(1), "stages.1.news: unknown key", id="unknown inner key"),
        pytest.param(lambda d: d.pop("labels"), "labels: Field required", id="missing key"),
        pytest.param(_set("labels")(["one"]), "labels: ", id="one label"),
        pytest.param(_set("labels")("x" * 100_000), "labels: ", id="labels that are text"),
        pytest.param(_set("name")("a/b"), "name: ", id="name with a slash"),
        pytest.param(_set("name")(".hidden"), "name: ", id="name with a dot in front"),
        pytest.param(_set("name")("ok\n"), "name: ", id="name with a newline"),
        pytest.param(_set("version")(0), "version: ", id="version 0"),
        pytest.param(_set("version")(1.5), "version: ", id="version 1.5"),
        pytest.param(FILE("/etc/passwd"), "stages.0.file: ", id="absolute path"),
        pytest.param(FILE("../1/stage-0.onnx"), "stages.0.file: ", id="path upwards"),
        pytest.param(FILE(".."), "stages.0.file: ", id="the folder above"),
        pytest.param(FILE("."), "stages.0.file: ", id="the folder itself"),
        pytest.param(FILE(""), "stages.0.file: ", id="no file name"),
        pytest.param(FILE("sub/stage-0.onnx"), "stages.0.file: ", id="path downwards"),
        pytest.param(FILE("..\\stage-0.onnx"), "stages.0.file: ", id="backslash"),
        pytest.param(FILE("C:\\stage-0.onnx"), "stages.0.file: ", id="drive"),
        pytest.param(FILE("x" * 300), "stages.0.file: ", id="name that no file system takes"),
        pytest.param(FILE("a\0b"), "stages.0.file: ", id="NUL"),
        pytest.param(FILE("a\nb"), "stages.0.file: ", id="line break"),
        pytest.param(FILE("stage-0.onnx\n"), "stages.0.file: ", id="line break at the end"),
        pytest.param(_set("stages", 0, "sha256")("0" * 63), "stages.0.sha256: ", id="short digest"),
        pytest.param(_set("stages", 0, "sha256")("G" * 64), "stages.0.sha256: ", id="digest that is no hex"),
        pytest.param(_set("stages", 0, "multiply_adds")(0), "stages.0.multiply_adds: ", id="no work"),
        pytest.param(_set("stages", 0, "features")([]), "stage 0 must name the features", id="no features"),
        pytest.param(
            _set("stages", 2, "features")([{"name": "more", **FEATURES}]),
            "the last stage must have no features",
            id="features of the last stage",
        ),
        pytest.param(
            _set("stages", 0, "features")([{"name": "logits", **FEATURES}]),
            "features of stage 0: expected distinct names",
            id="features called logits",
        ),
        pytest.param(_set("stages")([]), "stages: ", id="no stage"),
        pytest.param(SHAPE([1, 2, 3]), "inputs.0: shape must be [-1, ...]", id="fixed batch"),
        pytest.param(SHAPE([-1, -1, 3]), "inputs.0: shape must be [-1, ...]", id="two free dimensions"),
        pytest.param(SHAPE([-1, 0, 3]), "inputs.0: shape must be [-1, ...]", id="empty dimension"),
        pytest.param(SHAPE([]), "inputs.0: shape must be [-1, ...]", id="no dimension"),
        pytest.param(_set("inputs", 0, "datatype")("FP8"), "inputs.0.datatype: ", id="unknown datatype"),
        pytest.param(lambda d: d["inputs"].append(d["inputs"][0]), "inputs: expected distinct", id="twice"),
        pytest.param(lambda d: d["exits"].pop(), "exits: expected one for each stage, 3, got 2", id="exits"),
        pytest.param(
            _set("exits", 0, "calibration_temperature")(0), "exits.0.calibration_temperature: ", id="cold"
        ),
        pytest.param(
            _set("exits", 0, "calibration_temperature")(float("inf")),
            "exits.0.calibration_temperature: ",
            id="infinite temperature",
        ),
        pytest.param(
            _set("exits", 0, "calibration_temperature")(5e-324),
            "exits.0.calibration_temperature: ",
            id="temperature that no logits can be divided by",
        ),
        pytest.param(_set("exits", 0, "accuracy")(1.01), "exits.0.accuracy: ", id="accuracy above 1"),
        pytest.param(THRESHOLDS([float("nan"), 0.5]), "operating_points.fast.thresholds.0: ", id="nan"),
        pytest.param(THRESHOLDS([0.5, 1.5]), "operating_points.fast.thresholds.1: ", id="above 1"),
        pytest.param(THRESHOLDS([-0.1, 0.5]), "operating_points.fast.thresholds.0: ", id="below 0"),
        pytest.param(
            THRESHOLDS([0.5]), 'thresholds of operating point "fast": expected 2, got 1', id="too few"
        ),
        pytest.param(
            THRESHOLDS([0.5] * 3), 'thresholds of operating point "fast": expected 2, got 3', id="too many"
        ),
        pytest.param(
            _set("operating_points", "fast", "exit_shares")([0.5, 0.5]),
            'exit_shares of operating point "fast": expected 3, got 2',
            id="exit shares",
        ),
        pytest.param(
            _set("operating_points", "exact", "thresholds")([0.5, None]),
            'operating point "exact" must disable every early exit',
            id="exact that is not",
        ),
        pytest.param(
            lambda d: d["operating_points"].pop("exact"),
            "operating point \"exact\" is missing, known: ['balanced', 'fast']",
            id="no exact",
        ),
        pytest.param(
            _set("default_operating_point")("slow"), 'operating point "slow" is missing', id="default"
        ),
        pytest.param(
            lambda d: d["operating_points"].update({"a b": d["operating_points"]["fast"]}),
            "operating point 'a b': expected 1 to 64 letters",
            id="name of a point",
        ),
        pytest.param(
            _set("operating_points", "fast", "certificate", "epsilon")(0),
            "operating_points.fast.certificate.epsilon: ",
            id="epsilon 0",
        ),
        pytest.param(
            _set(*CERTIFICATE, "disagreements")(11),
            "operating_points.fast.certificate: disagreements: expected at most n, 10, got 11",
            id="more disagreements than rows",
        ),
        pytest.param(
            _set(*CERTIFICATE, "harms")(1),
            "operating_points.fast.certificate: harms: expected at most disagreements, 0, got 1",
            id="more harms than disagreements",
        ),
        pytest.param(
            lambda d: d["operating_points"]["fast"]["certificate"].update(risk="harm", harms=None),
            "operating_points.fast.certificate: harms: expected a count if the risk is harm, got none",
            id="harms that nobody counted",
        ),
        pytest.param(
            _set("pareto_path", "points", 0, "thresholds")([None]),
            "thresholds of point 0 of pareto_path: expected 2, got 1",
            id="path of another network",
        ),
        pytest.param(
            _set(*GOALS)({"version": 1, "options": {}, "goals": {"exact": {}}, "data": None}),
            'provenance.retargeted_from: goals: expected none for "exact", got one',
            id="goal of exact",
        ),
        pytest.param(
            _set(*GOALS)({"version": 1, "options": {}, "goals": {"custom": {}}, "data": None}),
            "provenance.retargeted_from: operating point 'custom': expected 1 to 64 letters",
            id="goal of a caller's own thresholds",
        ),
        pytest.param(_set("provenance", "dataset", "digest")("?"), "provenance.dataset.digest: ", id="data"),
        pytest.param(_set("confidence")("entropy"), "confidence: ", id="unknown confidence"),
    ],
)
def test_the_error_names_the_key_that_breaks_a_rule(
    document: Document, tmp_path: Path, change: Change, culprit: str
) -> None:
    change(document)

    assert complaint(tmp_path, document).startswith(culprit)


FIGURES_OF_LABELS: list[tuple[str | int, ...]] = [
    ("exits", 1, "accuracy"),
    ("exits", 2, "expected_calibration_error"),
    ("operating_points", "fast", "accuracy"),
    ("pareto_path", "points", 0, "accuracy_loss"),
]


def _place(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path))


@pytest.mark.parametrize("path", FIGURES_OF_LABELS, ids=_place)
def test_one_figure_that_is_null_where_others_are_not_is_refused_with_both_places(
    document: Document, tmp_path: Path, path: tuple[str | int, ...]
) -> None:
    _set(*path)(None)(document)

    assert complaint(tmp_path, document) == (
        "accuracy, expected_calibration_error and accuracy_loss: expected all or none to be null, "
        f"got null in {_place(path)} and a number in exits.0.accuracy"
    )


@pytest.mark.parametrize("path", FIGURES_OF_LABELS, ids=_place)
def test_one_figure_that_is_a_number_where_others_are_null_is_refused_with_both_places(
    attached: Document, tmp_path: Path, path: tuple[str | int, ...]
) -> None:
    _set(*path)(0.5)(attached)

    assert complaint(tmp_path, attached) == (
        "accuracy, expected_calibration_error and accuracy_loss: expected all or none to be null, "
        f"got null in exits.0.accuracy and a number in {_place(path)}"
    )


@pytest.mark.parametrize("path", FIGURES_OF_LABELS, ids=_place)
def test_a_figure_that_is_missing_is_not_the_same_as_null(
    attached: Document, tmp_path: Path, path: tuple[str | int, ...]
) -> None:
    place: Any = attached
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]

    assert complaint(tmp_path, attached) == f"{_place(path)}: Field required"


@pytest.mark.parametrize("written", [1, 2])
@pytest.mark.parametrize("path", FIGURES_OF_LABELS, ids=_place)
def test_before_format_3_no_figure_is_null(
    document: Document, tmp_path: Path, path: tuple[str | int, ...], written: int
) -> None:
    document["format_version"] = written
    _set(*path)(None)(document)

    assert complaint(tmp_path, document) == f"{_place(path)}: expected a number in format {written}, got null"


@pytest.mark.parametrize("written", [1, 2])
def test_before_format_3_no_version_is_attached(document: Document, tmp_path: Path, written: int) -> None:
    document["format_version"] = written
    document["provenance"] |= {"recipe": {}, "attached_to": dict(ATTACHED_TO)}

    assert complaint(tmp_path, document) == (
        f"provenance.attached_to: expected none in format {written}, got one"
    )


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        pytest.param(
            _set("provenance", "recipe")({"model": "tiny", "seed": 1}),
            "provenance: recipe: expected none beside attached_to, got the keys model, seed",
            id="recipe",
        ),
        pytest.param(_set(*SOURCE, "file")("models/a.onnx"), f"{FROM}.file: ", id="path"),
        pytest.param(_set(*SOURCE, "file")("C:\\a.onnx"), f"{FROM}.file: ", id="path of Windows"),
        pytest.param(_set(*SOURCE, "file")("a\nb.onnx"), f"{FROM}.file: ", id="line break"),
        pytest.param(_set(*SOURCE, "file")(""), f"{FROM}.file: ", id="no name"),
        pytest.param(_set(*SOURCE, "sha256")("ab" * 31), f"{FROM}.sha256: ", id="short digest"),
        pytest.param(_set(*SOURCE, "logits")(""), f"{FROM}.logits: ", id="no logits"),
        pytest.param(_set(*SOURCE, "cuts")([""]), f"{FROM}.cuts.0: ", id="cut without a name"),
        pytest.param(_set(*SOURCE, "rows")(None), f"{FROM}.rows: ", id="rows unsaid"),
        pytest.param(_set(*SOURCE, "news")(1), f"{FROM}.news: unknown key", id="unknown key"),
        pytest.param(
            lambda d: d["provenance"]["attached_to"].pop("options"),
            f"{FROM}.options: Field required",
            id="no options",
        ),
    ],
)
def test_the_error_names_the_key_of_attached_to_that_breaks_a_rule(
    attached: Document, tmp_path: Path, change: Change, culprit: str
) -> None:
    change(attached)

    assert complaint(tmp_path, attached).startswith(culprit)


@pytest.mark.parametrize("datatype", DTYPES)
def test_inputs_and_features_may_have_any_known_datatype(attached: Document, datatype: str) -> None:
    attached["inputs"][1]["datatype"] = attached["stages"][0]["features"][1]["datatype"] = datatype

    manifest = Manifest.model_validate_json(json.dumps(attached))

    assert (manifest.inputs[1].datatype, manifest.stages[0].features[1].datatype) == (datatype, datatype)


@pytest.mark.parametrize(
    "change",
    [
        _set("a\nb")(1),
        _set("k" * 10_000)(1),
        _set("operating_points", "a\nb")(3),
        _set("default_operating_point")("a\nb" * 1000),
        _set("labels", 0)("\ud800"),
        _set("created")(["x\n" * 10_000]),
    ],
    ids=range(6),
)
def test_a_complaint_is_one_short_line_whatever_the_keys(
    document: Document, tmp_path: Path, change: Change
) -> None:
    change(document)

    assert complaint(tmp_path, document)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def _changed_somewhere(document: Document, data: st.DataObject, value: object) -> Document:
    """Put a value in the place of another one, anywhere in a document."""
    place: Any = document
    while True:
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(keys))
        deeper = isinstance(place[key], dict | list) and len(place[key]) > 0
        if not deeper or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    return document


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=JSON, without_labels=st.booleans())
def test_any_value_anywhere_is_read_or_refused_in_one_line(
    version: PublishedVersion,
    attached: Document,
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    value: object,
    *,
    without_labels: bool,
) -> None:
    whole = json.dumps(attached) if without_labels else version.manifest.to_json()
    document = _changed_somewhere(json.loads(whole), data, value)
    path = tmp_path_factory.getbasetemp() / "any-manifest.json"
    path.write_text(json.dumps(document))

    try:
        read_manifest(path)
    except InvalidManifest as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017 - both outcomes are right


def test_an_unknown_operating_point_is_an_invalid_request(version: PublishedVersion) -> None:
    with pytest.raises(InvalidRequest, match='operating_point "slow" is unknown to model "scripted"'):
        version.manifest.operating_point("slow")


def test_a_manifest_cannot_be_changed(version: PublishedVersion) -> None:
    with pytest.raises(ValueError, match="frozen"):
        version.manifest.version = 2  # type: ignore[misc] # what the test is about
