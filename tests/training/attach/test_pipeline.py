"""The whole of `attach`: an ONNX file and rows become a published version that answers as the file does."""

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
from training.retarget.pipeline import retarget
from training.retarget.point_changes import PointChanges
from training.run.output_folder import hold

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
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network, rows, and what attaching made of them."""
    folder = tmp_path_factory.mktemp("attach")
    write_network(folder / "network.onnx")
    write_rows(folder / "rows.npz")
    assert attach(folder) == 0
    return folder


def attach(folder: Path, *more: str, data: str = "rows.npz") -> int:
    """Run the command; returns its exit code."""
    return main(
        [
            *("attach", str(folder / "network.onnx"), "--data", str(folder / data), "--name", "tables"),
            *("--output", str(folder / "output"), "--model-repository", str(folder / "models")),
            *QUICK,
            *more,
        ]
    )


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """A copy of the network and the rows, of the test's own."""
    for name in ("network.onnx", "rows.npz"):
        shutil.copy(made / name, tmp_path)
    return tmp_path


def manifest(folder: Path, version: int = 1) -> Manifest:
    return read_version(folder / "models" / "tables" / str(version)).manifest


def test_the_version_says_what_was_found_without_labels(made: Path) -> None:
    written = manifest(made)

    assert written.format_version == 3
    assert [spec.name for spec in written.inputs] == ["table"]
    assert written.labels == ("0", "1", "2")
    assert {each.accuracy for each in written.exits} == {None}
    assert written.exits[-1].calibration_temperature == 1.0
    assert {point.accuracy for point in written.operating_points.values()} == {None}
    balanced = written.operating_points["balanced"]
    assert balanced.certificate is not None
    assert (balanced.certificate.epsilon, balanced.certificate.harms) == (0.05, None)
    assert balanced.multiply_adds_share < 0.9
    attached_to = written.provenance.attached_to
    assert attached_to is not None
    assert (attached_to.file, attached_to.logits, written.provenance.recipe) == (
        "network.onnx",
        "dense_3",
        {},
    )


def test_at_full_depth_it_answers_as_the_file(made: Path) -> None:
    table = np.random.default_rng(9).normal(0, 2, (500, FEATURES)).astype(np.float32)
    version = read_version(made / "models" / "tables" / "1")
    runner = StageRunner(stage_files(version), version.manifest.inputs, CPU, slots=256)

    logits_NK = runner.run_every_stage({"table": table})[-1]

    expected_NK = file_answers(made / "network.onnx", table)
    exponentials_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    assert exponentials_NK / exponentials_NK.sum(axis=1, keepdims=True) == pytest.approx(
        expected_NK, abs=1e-5
    )


@pytest.mark.parametrize("front_end", ["grpcio", "native"])
def test_a_server_answers_as_the_file_at_exact_and_seldom_otherwise_at_balanced(
    made: Path, front_end: str
) -> None:
    table = np.random.default_rng(11).normal(0, 2, (640, FEATURES)).astype(np.float32)
    expected_N = file_answers(made / "network.onnx", table).argmax(axis=1)

    with LiveServer(made / "models", front_end=front_end) as server, Client(server.address) as client:
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


def test_the_report_shows_cost_agreement_and_where_the_rows_must_come_from(made: Path) -> None:
    page = (made / "output" / "report.html").read_text()

    assert "balanced answers like the network for" in page
    assert "rows that the network was not trained on" in page
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_what_is_published_is_not_published_twice(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert attach(made, "--resume") == 0

    assert "nothing to do, already published tables version 1" in capsys.readouterr().out
    assert [path.name for path in (made / "models" / "tables").iterdir()] == ["1"]


def test_an_attaching_killed_between_publishing_and_its_record_adopts_its_version(own: Path) -> None:
    assert attach(own) == 0
    for name in ("record.json", "report.html"):
        (own / "output" / name).unlink()

    assert attach(own, "--resume") == 0

    assert (own / "output" / "report.html").exists()
    assert [path.name for path in (own / "models" / "tables").iterdir()] == ["1"]


def test_an_attaching_in_a_folder_that_another_one_holds_is_refused(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hold(own / "output", resume=False):
        assert "in use by process" in refused(own, capsys)


def test_an_attaching_that_was_never_begun_is_not_resumed(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "expected a run to resume, got an empty folder" in refused(own, capsys, "--resume")


def test_an_interrupted_run_goes_on_with_its_features_and_heads(own: Path, made: Path) -> None:
    shutil.copytree(made / "output" / "features", own / "output" / "features")
    shutil.copytree(made / "output" / "heads", own / "output" / "heads")
    begun = json.loads((made / "output" / "attach.json").read_text())
    begun["settings"] |= {"model": str(own / "network.onnx"), "data": str(own / "rows.npz")}
    (own / "output" / "attach.json").write_text(json.dumps(begun))
    stamps = {path: path.stat().st_mtime_ns for path in (own / "output").rglob("*.np*")}

    assert attach(own, "--resume") == 0

    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert [stage.sha256 for stage in manifest(own).stages] == [
        stage.sha256 for stage in manifest(made).stages
    ]


def test_with_labels_accuracies_are_known_and_harm_can_be_certified(own: Path) -> None:
    table = write_rows(own / "rows.npz")
    truth_N = file_answers(own / "network.onnx", table).argmax(axis=1)
    truth_N[::10] = (truth_N[::10] + 1) % CLASSES
    write_rows(own / "rows.npz", y=truth_N)

    assert attach(own, "--certified-by", "harm") == 0

    written = manifest(own)
    assert written.operating_points["exact"].accuracy == pytest.approx(0.9, abs=0.04)
    certificate = written.operating_points["balanced"].certificate
    assert certificate is not None
    assert certificate.risk == "harm"


def test_cuts_can_be_named(own: Path) -> None:
    assert attach_at(own, "relu_0") == 0

    written = manifest(own)
    assert len(written.stages) == 2
    assert written.provenance.attached_to is not None
    assert written.provenance.attached_to.cuts == ("relu_0",)


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


def test_a_mistyped_cut_leaves_the_folder_free_for_another_try(own: Path) -> None:
    assert attach_at(own, "relu_O") == 2

    assert attach_at(own, "relu_0") == 0


def test_a_published_version_is_retargeted_on_its_rows_and_on_others(made: Path, own: Path) -> None:
    shutil.copytree(made / "models", own / "models")

    again = retarget(own / "models", "tables", 1, PointChanges(epsilon=0.08), None, lambda _: None)

    assert again.version.manifest.operating_points["balanced"].certificate.epsilon == 0.08  # type: ignore[union-attr]
    assert again.version.manifest.provenance.attached_to == manifest(made).provenance.attached_to


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """Attach, which must fail in one line and publish nothing."""
    assert attach(folder, *more) == 2
    assert not (folder / "models").exists() or not list((folder / "models").rglob("manifest.json"))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")


def test_too_few_rows_are_refused_with_how_many_are_needed(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(own / "rows.npz", 200)

    assert "expected at least" in refused(own, capsys)


def test_a_network_that_no_exit_makes_cheaper_is_only_published_by_force(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attach_at(own, "relu_2") == 2

    assert "error: no saving found: balanced takes " in capsys.readouterr().err
    assert not (own / "models" / "tables").exists()
    assert attach_at(own, "relu_2", more=("--resume", "--force")) == 0


def test_another_folder_than_it_was_begun_with_is_refused(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attach(made, "--resume", "--seed", "1") == 2

    assert "begun with another seed: expected 0, got 1" in capsys.readouterr().err


def test_a_number_of_class_names_that_does_not_fit_is_refused(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "names.txt").write_text("one\ntwo\n")

    assert "class names: expected 3" in refused(own, capsys, "--labels", str(own / "names.txt"))


def test_harm_without_labels_is_refused(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "expected labels to certify by harm, got none" in refused(own, capsys, "--certified-by", "harm")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--epsilon", "2"), "--epsilon: expected less than 1"),
        (("--exits", "0"), "--exits: expected greater than or equal to 1"),
        (("--name", "a/b"), "--name: "),
        (("--delta", "0"), "--delta: "),
    ],
)
def test_an_option_that_cannot_be_is_named(
    own: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], complaint: str
) -> None:
    assert complaint in refused(own, capsys, *options)


def test_an_attached_version_is_no_version_of_images(made: Path) -> None:
    with pytest.raises(RepositoryError):
        retarget(made / "models", "tables", 9, PointChanges(epsilon=0.08), None, lambda _: None)
