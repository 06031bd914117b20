import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from serving.stages.devices import CPU
from serving.stages.runner import StageRunner
from tests.training.attach import networks
from tests.training.attach.measured_networks import MeasuredNetwork, open_network, random_heads
from tests.training.attach.networks import Arrays, session
from training.attach.heads.pooling import pooled_model
from training.attach.heads.weights import HeadWeights
from training.attach.stages.export import write_stages
from training.attach.stages.parity import check_early_exits, check_parity
from training.errors import AttachError, ExportMismatch

ROWS = 150


class Attached:
    """A network with two cuts, random heads and written stages."""

    def __init__(self, name: str, folder: Path) -> None:
        self.network: MeasuredNetwork = open_network(networks.NETWORKS[name](17), folder)
        self.cuts = self.network.cuts[1:4:2]
        self.heads: list[HeadWeights] = random_heads(self.cuts, self.network.source.classes)
        self.rows: Arrays = self.network.rows(ROWS)
        self.stages = write_stages(
            self.network.source, self.cuts, self.heads, folder, total=self.network.measured.total
        )

    def answers(self) -> NDArray[np.float32]:
        files = [stage.file for stage in self.stages]
        return StageRunner(files, self.network.source.inputs, CPU, slots=32).run_every_stage(self.rows)

    def pooled(self) -> list[NDArray[np.float32]]:
        *pooled, _logits = session(pooled_model(self.network.source, self.cuts)).run(None, self.rows)
        return list(pooled)


@pytest.fixture
def convnet(tmp_path: Path) -> Attached:
    return Attached("convnet", tmp_path)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_stages_that_answer_as_the_file_pass(name: str, tmp_path: Path) -> None:
    attached = Attached(name, tmp_path)

    parity = check_parity(attached.network.source, attached.answers()[-1], attached.rows)

    assert parity.rows == ROWS
    assert parity.largest_difference <= 1e-5
    assert parity.other_labels == 0


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_early_exits_that_answer_as_their_heads_pass(name: str, tmp_path: Path) -> None:
    attached = Attached(name, tmp_path)

    assert check_early_exits(attached.heads, attached.pooled(), attached.answers()) <= 1e-5


def test_a_changed_weight_in_the_last_stage_is_reported(convnet: Attached) -> None:
    path = convnet.stages[-1].file.path
    model = onnx.load(path)
    bias = model.graph.initializer[-1]
    values = numpy_helper.to_array(bias).copy()
    values[3] += 0.01
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    onnx.save(model, path)

    with pytest.raises(
        ExportMismatch,
        match=r"^final exit, row 0, logit 3: expected \S+ within \S+, got \S+ from the stages$",
    ):
        check_parity(convnet.network.source, convnet.answers()[-1], convnet.rows)


def test_a_head_that_differs_from_its_stage_is_reported_with_its_exit(convnet: Attached) -> None:
    (weight, bias), last = convnet.heads[1].layers
    other = HeadWeights(((weight, bias + np.float32(0.05)), last))

    with pytest.raises(ExportMismatch, match=r"^exit 1, row 0, logit \d: expected \S+ within \S+, got"):
        check_early_exits([convnet.heads[0], other], convnet.pooled(), convnet.answers())


def test_a_wrong_row_in_a_later_batch_is_named(convnet: Attached) -> None:
    logits_ENK = convnet.answers()
    logits_ENK[:, ROWS - 1, 2] = np.nan

    with pytest.raises(
        ExportMismatch, match=rf"^final exit, row {ROWS - 1}, logit 2: expected \S+ within .* got nan"
    ):
        check_parity(convnet.network.source, logits_ENK[-1], convnet.rows)
    with pytest.raises(
        ExportMismatch, match=rf"^exit 0, row {ROWS - 1}, logit 2: expected \S+ within .* got nan"
    ):
        check_early_exits(convnet.heads, convnet.pooled(), logits_ENK)


def test_a_file_output_that_differs_from_its_logits_is_reported(convnet: Attached) -> None:
    node = next(node for node in convnet.network.source.file_nodes if node.op_type == "Softmax")
    node.op_type = "Sigmoid"
    del node.attribute[:]

    with pytest.raises(
        ExportMismatch, match=r'row 0: expected output "answer" to be the softmax of "scores"'
    ):
        check_parity(convnet.network.source, convnet.answers()[-1], convnet.rows)


def test_logits_of_another_shape_are_refused(convnet: Attached) -> None:
    with pytest.raises(
        ExportMismatch, match=re.escape("final exit: expected logits of shape [64, 5], got [64, 4]")
    ):
        check_parity(convnet.network.source, convnet.answers()[-1, :, :4], convnet.rows)


def test_labels_that_differ_within_the_tolerance_are_counted(tmp_path: Path) -> None:
    write = networks.Writer(17)
    write.add("MatMul", write.input("figures", 2), write.add_constant([[1, 1], [1, 1]]), name="answer")
    write.output("answer", 2)
    network = open_network(write.model(), tmp_path)
    rows = network.rows(10)
    logits_NK = rows["figures"].sum(axis=1, keepdims=True).repeat(2, axis=1)
    logits_NK[4, 1] += 1e-5

    assert check_parity(network.source, logits_NK, rows).other_labels == 1


def test_rows_that_the_file_cannot_run_on_are_named(tmp_path: Path) -> None:
    attached = Attached("encoder", tmp_path)
    logits_NK = attached.answers()[-1]
    attached.rows["input_ids"][70] = 10**6

    with pytest.raises(
        AttachError, match=r"network\.onnx: rows from 64: onnxruntime cannot run it: .*out of"
    ):
        check_parity(attached.network.source, logits_NK, attached.rows)


def test_parity_is_described_in_one_line(convnet: Attached) -> None:
    parity = check_parity(convnet.network.source, convnet.answers()[-1], convnet.rows)

    assert re.fullmatch(
        r"the final exit answers as the file on 150 rows: logits differ by at most \d\.\de[+-]\d\d, "
        r"the largest is \d\S*, 0 labels differ",
        str(parity),
    )
