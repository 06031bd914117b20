"""The `attach` command from an ONNX file and rows to a published version."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.client import Client
from serving.errors import RepositoryError
from serving.repository.manifest import Manifest
from serving.repository.repository import read_version
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner, stage_files
from tests.serving.live_server import LiveServer
from training.__main__ import main
from training.errors import DatasetError
from training.pipeline.output_folder import hold
from training.release.origin import OwnData
from training.retarget.pipeline import retarget
from training.retarget.point_changes import PointChanges

ROWS, FEATURES, CLASSES = 1200, 8, 3
QUICK = ("--epsilon", "0.05", "--fast-epsilon", "0.1", "--exits", "2")


def write_network(path: Path) -> None:
    """Write a network of four dense layers."""
    generator = np.random.default_rng(3)
    sizes = [FEATURES, 16, 64, 64, CLASSES]
    nodes, weights, tensor = [], [], "table"
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        weight = generator.normal(0, 1 / np.sqrt(inputs), (inputs, outputs)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"weight_{number}"))
        nodes.append(helper.make_node("MatMul", [tensor, f"weight_{number}"], [f"dense_{number}"]))
        tensor = f"dense_{number}"
        if outputs != CLASSES:
            nodes.append(helper.make_node("Relu", [tensor], [f"relu_{number}"]))
            tensor = f"relu_{number}"
    nodes.append(helper.make_node("Softmax", [tensor], ["probabilities"], axis=1))
    graph = helper.make_graph(
        nodes,
        "table",
        [helper.make_tensor_value_info("table", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", CLASSES])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_rows(path: Path, rows: int = ROWS, **more: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    table = np.random.default_rng(5).normal(0, 2, (rows, FEATURES)).astype(np.float32)
    np.savez(path, allow_pickle=False, table=table, **more)
    return table


def file_answers(network: Path, table: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    answers: np.ndarray[Any, Any] = session.run(None, {"table": table})[0]
    return answers


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network, rows, and the output of a finished run."""
    folder = tmp_path_factory.mktemp("attach")
    write_network(folder / "network.onnx")
    write_rows(folder / "rows.npz")
    assert attach(folder) == 0
    return folder


def attach(folder: Path, *more: str, data: str = "rows.npz") -> int:
    """Run the command and return its exit code."""
    return main(
        [
            *("attach", str(folder / "network.onnx"), "--data", str(folder / data), "--name", "tables"),
            *("--output", str(folder / "output"), "--model-repository", str(folder / "models")),
            *QUICK,
            *more,
        ]
    )


@pytest.fixture
def fresh(finished: Path, tmp_path: Path) -> Path:
    """A folder with a copy of the network and the rows."""
    for name in ("network.onnx", "rows.npz"):
        shutil.copy(finished / name, tmp_path)
    return tmp_path


def manifest(folder: Path, version: int = 1) -> Manifest:
    return read_version(folder / "models" / "tables" / str(version)).manifest


def test_a_version_without_labels_has_no_accuracies(finished: Path) -> None:
    published = manifest(finished)

    assert published.format_version == 3
    assert [spec.name for spec in published.inputs] == ["table"]
    assert published.labels == ("0", "1", "2")
    assert {entry.accuracy for entry in published.exits} == {None}
    assert published.exits[-1].calibration_temperature == 1.0
    assert {point.accuracy for point in published.operating_points.values()} == {None}
    balanced = published.operating_points["balanced"]
    assert balanced.certificate is not None
    assert (balanced.certificate.epsilon, balanced.certificate.harms) == (0.05, None)
    assert balanced.multiply_adds_share < 0.9
    attached_to = published.provenance.attached_to
    assert attached_to is not None
    assert (attached_to.file, attached_to.logits, published.provenance.recipe) == (
        "network.onnx",
        "dense_3",
        {},
    )


def test_exact_answers_as_the_file(finished: Path) -> None:
    table = np.random.default_rng(9).normal(0, 2, (500, FEATURES)).astype(np.float32)
    version = read_version(finished / "models" / "tables" / "1")
    runner = StageRunner(stage_files(version), version.manifest.inputs, CPU, slots=256)

    logits_NK = runner.run_every_stage({"table": table})[-1]

    expected_NK = file_answers(finished / "network.onnx", table)
    exponentials_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    assert exponentials_NK / exponentials_NK.sum(axis=1, keepdims=True) == pytest.approx(
        expected_NK, abs=1e-5
    )


@pytest.mark.parametrize("front_end", ["grpcio", "native"])
def test_a_server_answers_as_the_file_at_exact_and_rarely_differs_at_balanced(
    finished: Path, front_end: str
) -> None:
    table = np.random.default_rng(11).normal(0, 2, (640, FEATURES)).astype(np.float32)
    expected_N = file_answers(finished / "network.onnx", table).argmax(axis=1)

    with LiveServer(finished / "models", front_end=front_end) as server, Client(server.address) as client:
        exact_N, balanced_N = (
            np.concatenate(
                [
                    client.infer("tables", {"table": batch}, operating_point=point).label_N
                    for batch in np.split(table, 10)
                ]
            )
            for point in ("exact", "balanced")
        )

    assert exact_N.tolist() == expected_N.tolist()
    assert (balanced_N != expected_N).mean() <= 2 * 0.05


def test_the_report_shows_cost_agreement_and_the_condition_on_the_rows(finished: Path) -> None:
    page = (finished / "output" / "report.html").read_text()

    assert "balanced takes" in page
    assert "of its answers differ from the network" in page
    assert "The network must not have been trained on these rows." in page
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_finished_run_is_not_published_twice(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert attach(finished, "--resume") == 0

    assert "nothing to do, already published tables version 1" in capsys.readouterr().out
    assert [path.name for path in (finished / "models" / "tables").iterdir()] == ["1"]


def test_a_run_killed_between_publishing_and_its_record_adopts_its_version(fresh: Path) -> None:
    assert attach(fresh) == 0
    for name in ("record.json", "report.html"):
        (fresh / "output" / name).unlink()

    assert attach(fresh, "--resume") == 0

    assert (fresh / "output" / "report.html").exists()
    assert [path.name for path in (fresh / "models" / "tables").iterdir()] == ["1"]


def test_a_folder_locked_by_another_process_is_refused(
    fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hold(fresh / "output", resume=False):
        assert "in use by process" in refused(fresh, capsys)


def test_a_run_that_never_started_cannot_be_resumed(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "expected a run to resume, got an empty folder" in refused(fresh, capsys, "--resume")


def test_a_resumed_run_reuses_its_features_and_heads(fresh: Path, finished: Path) -> None:
    shutil.copytree(finished / "output" / "features", fresh / "output" / "features")
    shutil.copytree(finished / "output" / "heads", fresh / "output" / "heads")
    inputs = json.loads((finished / "output" / "attach.json").read_text())
    inputs["settings"] |= {"model": str(fresh / "network.onnx"), "data": str(fresh / "rows.npz")}
    (fresh / "output" / "attach.json").write_text(json.dumps(inputs))
    stamps = {path: path.stat().st_mtime_ns for path in (fresh / "output").rglob("*.np*")}

    assert attach(fresh, "--resume") == 0

    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert [stage.sha256 for stage in manifest(fresh).stages] == [
        stage.sha256 for stage in manifest(finished).stages
    ]


def test_with_labels_accuracies_are_measured_and_harm_is_certified(fresh: Path) -> None:
    table = write_rows(fresh / "rows.npz")
    truth_N = file_answers(fresh / "network.onnx", table).argmax(axis=1)
    truth_N[::10] = (truth_N[::10] + 1) % CLASSES
    write_rows(fresh / "rows.npz", y=truth_N)

    assert attach(fresh, "--certified-by", "harm") == 0

    published = manifest(fresh)
    assert published.operating_points["exact"].accuracy == pytest.approx(0.9, abs=0.04)
    certificate = published.operating_points["balanced"].certificate
    assert certificate is not None
    assert certificate.risk == "harm"


def test_exits_are_at_the_named_cuts(fresh: Path) -> None:
    assert attach_at(fresh, "relu_0") == 0

    published = manifest(fresh)
    assert len(published.stages) == 2
    assert published.provenance.attached_to is not None
    assert published.provenance.attached_to.cuts == ("relu_0",)


def attach_at(folder: Path, *cuts: str, more: tuple[str, ...] = ()) -> int:
    return main(
        [
            *("attach", str(folder / "network.onnx"), "--data", str(folder / "rows.npz"), "--name", "tables"),
            *("--output", str(folder / "output"), "--model-repository", str(folder / "models")),
            *("--epsilon", "0.05", "--fast-epsilon", "0.1"),
            *[word for cut in cuts for word in ("--cut", cut)],
            *more,
        ]
    )


def test_a_folder_is_reusable_after_a_mistyped_cut(fresh: Path) -> None:
    assert attach_at(fresh, "relu_O") == 2

    assert attach_at(fresh, "relu_0") == 0


def test_a_version_is_retargeted_on_its_own_rows(finished: Path, fresh: Path) -> None:
    shutil.copytree(finished / "models", fresh / "models")

    again = retarget(fresh / "models", "tables", 1, PointChanges(epsilon=0.08), None, lambda _: None)

    assert again.version.manifest.operating_points["balanced"].certificate.epsilon == 0.08  # type: ignore[union-attr]
    assert again.version.manifest.provenance.attached_to == manifest(finished).provenance.attached_to


def test_other_rows_with_shifted_labels_are_refused(finished: Path, fresh: Path) -> None:
    shutil.copytree(finished / "models", fresh / "models")
    table = write_rows(fresh / "other.npz")
    answer_N = file_answers(next(fresh.glob("*.onnx")), table).argmax(axis=1)
    write_rows(fresh / "other.npz", y=(answer_N + 1) % CLASSES)

    data = OwnData(file=str(fresh / "other.npz"))
    with pytest.raises(DatasetError, match=r"y: labels look shifted by one: .*but 100 % if 1 is sub"):
        retarget(fresh / "models", "tables", 1, PointChanges(), data, lambda _: None)
    assert not (fresh / "models" / "tables" / "2").exists()


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """Run the command, check that it fails and publishes nothing, and return its error."""
    assert attach(folder, *more) == 2
    assert not (folder / "models").exists() or not list((folder / "models").rglob("manifest.json"))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("offramp: error: ")]
    return line.removeprefix("offramp: error: ")


def test_too_few_rows_are_refused_with_the_number_needed(
    fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(fresh / "rows.npz", 200)

    assert "expected at least" in refused(fresh, capsys)


def test_a_network_without_saving_is_published_only_with_force(
    fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attach_at(fresh, "relu_2") == 2

    assert "error: no saving found: expected balanced to take at most 90% " in capsys.readouterr().err
    assert not (fresh / "models" / "tables").exists()
    assert attach_at(fresh, "relu_2", more=("--resume", "--force")) == 0


def test_a_folder_started_with_other_settings_is_refused(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attach(finished, "--resume", "--seed", "1") == 2

    assert "started with another seed: expected 0, got 1" in capsys.readouterr().err


def test_a_wrong_number_of_class_names_is_refused(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fresh / "names.txt").write_text("one\ntwo\n")

    assert "class names: expected 3" in refused(fresh, capsys, "--labels", str(fresh / "names.txt"))


def test_harm_without_labels_is_refused(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "expected labels to certify by harm, got none" in refused(fresh, capsys, "--certified-by", "harm")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--epsilon", "2"), "--epsilon: expected less than 1"),
        (("--exits", "0"), "--exits: expected greater than or equal to 1"),
        (("--name", "a/b"), "--name: "),
        (("--delta", "0"), "--delta: "),
    ],
)
def test_an_invalid_option_is_named(
    fresh: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], complaint: str
) -> None:
    assert complaint in refused(fresh, capsys, *options)


def test_a_missing_version_cannot_be_retargeted(finished: Path) -> None:
    with pytest.raises(RepositoryError, match="expected one of versions 1, got 9"):
        retarget(finished / "models", "tables", 9, PointChanges(epsilon=0.08), None, lambda _: None)
