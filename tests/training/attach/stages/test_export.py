from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from serving.repository.manifest import TensorSpec
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner
from tests.training.attach import networks
from tests.training.attach.networks import Arrays, random_rows, session, tensors
from tests.training.attach.opened import chain, opened, random_heads, written
from tests.training.attach.random_graphs import random_graphs
from training.attach.heads.pooling import pooled_model
from training.attach.network.cuts import Cut
from training.attach.network.multiply_adds import multiply_adds
from training.attach.stages.export import write_stages


def pairs(cuts: Sequence[Cut]) -> list[tuple[Cut, ...]]:
    """Return some pairs of cuts, neighbours and strangers."""
    return [*combinations(cuts[:: max(1, len(cuts) // 4)], 2), tuple(cuts[-2:])]


@pytest.mark.parametrize("opset", networks.OPSETS)
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_the_chain_of_stages_answers_as_the_file_to_the_bit(name: str, opset: int, tmp_path: Path) -> None:
    found = opened(networks.NETWORKS[name](opset), tmp_path)
    rows = found.rows(9)
    (expected_BK,) = tensors(found.source.model, [found.source.logits], rows)

    for cuts in pairs(found.cuts):
        logits = chain(written(found, cuts, tmp_path), rows)

        np.testing.assert_array_equal(logits[-1], expected_BK)


@settings(max_examples=60, deadline=None)
@given(model=random_graphs(), data=st.data())
def test_any_graph_cut_anywhere_answers_as_the_file_to_the_bit(
    model: onnx.ModelProto, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("graph")
    found = opened(model, folder)
    chosen = data.draw(st.lists(st.booleans(), min_size=len(found.cuts), max_size=len(found.cuts)))
    cuts = [cut for cut, is_chosen in zip(found.cuts, chosen, strict=True) if is_chosen]
    rows = found.rows(5)

    logits = chain(written(found, cuts, folder), rows)

    np.testing.assert_array_equal(logits[-1], tensors(found.source.model, [found.source.logits], rows)[0])


@settings(max_examples=15, deadline=None)
@given(blocks=st.integers(1, 4), seed=st.integers(0, 99), data=st.data())
def test_any_residual_network_cut_anywhere_answers_as_the_file_to_the_bit(
    blocks: int, seed: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("network")
    found = opened(networks.convnet(blocks=blocks, seed=seed), folder)
    chosen = data.draw(st.sets(st.integers(0, len(found.cuts) - 1), max_size=3))
    rows = found.rows(3, seed)

    logits = chain(written(found, [found.cuts[number] for number in sorted(chosen)], folder), rows)

    np.testing.assert_array_equal(logits[-1], tensors(found.source.model, [found.source.logits], rows)[0])


@pytest.mark.parametrize("opset", networks.OPSETS)
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_an_early_exit_answers_as_its_head_on_pooled_features(name: str, opset: int, tmp_path: Path) -> None:
    found = opened(networks.NETWORKS[name](opset), tmp_path)
    cuts = found.cuts[:: max(1, len(found.cuts) // 3)]
    rows = found.rows(9)

    *logits, _final = chain(written(found, cuts, tmp_path), rows)

    *pooled, _logits = session(pooled_model(found.source, cuts)).run(None, rows)
    for head, features, got in zip(random_heads(cuts, found.source.classes), pooled, logits, strict=True):
        np.testing.assert_allclose(got, head.logits(features), atol=1e-5)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_the_stage_runner_runs_what_is_written(name: str, tmp_path: Path) -> None:
    found = opened(networks.NETWORKS[name](17), tmp_path)
    stages = written(found, found.cuts[1::2], tmp_path)
    rows = found.rows(9)

    runner = StageRunner([stage.file for stage in stages], found.source.inputs, CPU, slots=4)

    logits_ENK = runner.run_every_stage(rows)
    (expected_NK,) = tensors(found.source.model, [found.source.logits], rows)
    np.testing.assert_allclose(logits_ENK[-1], expected_NK, atol=1e-5)


def shapes(values: Sequence[onnx.ValueInfoProto]) -> dict[str, list[int | str]]:
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in values
    }


def test_stages_take_and_return_tensors_under_the_manifests_names(tmp_path: Path) -> None:
    found = opened(networks.encoder(), tmp_path)

    stages = written(found, found.named("layer_0", "layer_1"), tmp_path)

    graphs = [onnx.load(stage.file.path).graph for stage in stages]
    assert [stage.file.path.name for stage in stages] == ["stage-0.onnx", "stage-1.onnx", "stage-2.onnx"]
    assert shapes(graphs[0].input) == {"input_ids": ["batch", 6], "attention_mask": ["batch", 6]}
    assert shapes(graphs[0].output) == {
        "logits": ["batch", 3],
        "features_0": ["batch", 6, 8],
        "attention_mask_0": ["batch", 6],
    }
    assert shapes(graphs[1].input) == {
        "rows": ["batch"],
        "features_0": ["slots", 6, 8],
        "attention_mask_0": ["slots", 6],
    }
    assert shapes(graphs[1].output) == {"logits": ["batch", 3], "features_1": ["batch", 6, 8]}
    assert shapes(graphs[2].input) == {"rows": ["batch"], "features_1": ["slots", 6, 8]}
    assert shapes(graphs[2].output) == {"logits": ["batch", 3]}
    assert [stage.file.features for stage in stages] == [
        (
            TensorSpec(name="features_0", datatype="FP32", shape=(-1, 6, 8)),
            TensorSpec(name="attention_mask_0", datatype="INT64", shape=(-1, 6)),
        ),
        (TensorSpec(name="features_1", datatype="FP32", shape=(-1, 6, 8)),),
        (),
    ]


def test_a_mask_that_only_a_later_head_reads_is_carried_to_it(tmp_path: Path) -> None:
    found = opened(networks.encoder(), tmp_path)
    cuts = found.named("attended_1", "layer_1")

    stages = written(found, cuts, tmp_path)

    assert cuts[0].carried == ()
    assert [spec.name for spec in stages[0].file.features] == ["features_0", "attention_mask_0"]


def test_names_that_stages_use_themselves_are_given_way(tmp_path: Path) -> None:
    found = opened(networks.colliding_network(), tmp_path)

    stages = written(found, found.named("features_0", "x_0_1"), tmp_path)

    features = [[spec.name for spec in stage.file.features] for stage in stages]
    assert features == [["features_0", "x_0.1", "x_0_0"], ["features_1", "x_1"], []]
    for stage in stages:
        graph = onnx.load(stage.file.path).graph
        assert graph.output[0].name == "logits"
        made = [name for node in graph.node for name in node.output]
        held = [tensor.name for tensor in graph.initializer]
        given = [value.name for value in graph.input]
        assert len({*made, *held, *given}) == len(made) + len(held) + len(given)


def test_an_input_may_be_called_as_features_are(tmp_path: Path) -> None:
    write = networks.Writer(17)
    value = write.linear(write.input("features", 4), 4, 4, "hidden")
    write.linear(write.add("Add", value, "features"), 4, 3, "answer")
    write.output("answer", 3)
    found = opened(write.model(), tmp_path)
    rows = found.rows(3)

    stages = written(found, found.named("hidden"), tmp_path)

    assert [spec.name for spec in stages[0].file.features] == ["features_0", "features_0.1"]
    np.testing.assert_array_equal(chain(stages, rows)[-1], tensors(write.model(), ["answer"], rows)[0])


@pytest.mark.parametrize("opset", networks.OPSETS)
def test_stages_keep_the_files_opset_and_ir_version(opset: int, tmp_path: Path) -> None:
    model = networks.encoder(opset)
    found = opened(model, tmp_path)

    for stage in written(found, found.named("layer_0"), tmp_path):
        read = onnx.load(stage.file.path)
        assert [(each.domain, each.version) for each in read.opset_import] == [("", opset)]
        assert read.ir_version == model.ir_version


def test_weights_are_copied_to_the_bit_and_shared_ones_to_every_stage(tmp_path: Path) -> None:
    model = networks.sharing_network()
    found = opened(model, tmp_path)

    stages = written(found, found.named("layer_0", "layer_1"), tmp_path)

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for stage in stages:
        held = {tensor.name: tensor for tensor in onnx.load(stage.file.path).graph.initializer}
        assert held["shared"] == weights["shared"]


def test_a_stage_holds_no_weights_that_it_does_not_use(tmp_path: Path) -> None:
    found = opened(networks.convnet(), tmp_path)

    stages = written(found, found.named("stem", "block_0"), tmp_path)

    for stage in stages:
        graph = onnx.load(stage.file.path).graph
        read = {name for node in graph.node for name in node.input}
        assert {tensor.name for tensor in graph.initializer} <= read
    assert sum(len(onnx.load(stage.file.path).graph.initializer) for stage in stages[:1]) == 5 + 4


def counted(path: Path, rows: Arrays) -> int:
    """Count the multiply-adds of a stage file node by node, on one row."""
    model = onnx.load(path)
    names = [name for node in model.graph.node for name in node.output if name]
    arrays = dict(zip(names, tensors(model, names, rows), strict=True)) | rows
    arrays |= {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return sum(
        multiply_adds(node, {name: array.shape for name, array in arrays.items()})
        for node in model.graph.node
    )


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_multiply_adds_of_a_stage_are_those_of_its_file(name: str, tmp_path: Path) -> None:
    found = opened(networks.NETWORKS[name](17), tmp_path)
    stages = written(found, found.cuts[1::3], tmp_path)

    taken = found.rows(1)
    for stage in stages:
        assert counted(stage.file.path, taken) == stage.multiply_adds
        names = [spec.name for spec in stage.file.features]
        taken = dict(zip(names, session(stage.file.path).run(names or ["logits"], taken), strict=False))
        taken["rows"] = np.zeros(1, np.int64)


def test_parameters_of_a_stage_are_those_of_its_nodes_and_its_head(tmp_path: Path) -> None:
    found = opened(networks.table_network(), tmp_path)
    cuts = found.named("hidden_0")

    first, last = written(found, cuts, tmp_path)

    (head,) = random_heads(cuts, 4)
    assert first.parameters == 7 * 9 + 9 + head.parameters
    assert last.parameters == 9 * 8 + 8 + 8 * 4


def test_notes_of_the_exporter_are_left_behind(tmp_path: Path) -> None:
    model = networks.convnet()
    for node in model.graph.node:
        node.doc_string = "/home/somebody/train.py"
        node.metadata_props.add(key="stack", value="/home/somebody/train.py")
    found = opened(model, tmp_path)

    for stage in written(found, found.named("stem"), tmp_path):
        assert b"somebody" not in stage.file.path.read_bytes()


def test_the_same_cuts_and_heads_give_the_same_bytes(tmp_path: Path) -> None:
    found = opened(networks.encoder(), tmp_path)
    cuts = found.named("layer_0")
    first = [stage.file.path.read_bytes() for stage in written(found, cuts, tmp_path)]

    again = [stage.file.path.read_bytes() for stage in written(found, cuts, tmp_path)]

    assert again == first


def test_without_cuts_the_file_is_one_stage(tmp_path: Path) -> None:
    found = opened(networks.two_class_network(), tmp_path)

    (stage,) = written(found, (), tmp_path)

    assert stage.file.features == ()
    assert stage.multiply_adds == found.measured.total


def test_operators_of_another_domain_are_copied_with_it(tmp_path: Path) -> None:
    write = networks.Writer(17)
    hidden = write.linear(write.input("figures", 7), 7, 6, "hidden")
    write.nodes.append(onnx.helper.make_node("Gelu", [hidden], ["active"], domain="com.microsoft"))
    write.linear("active", 6, 3, "answer")
    write.output("answer", 3)
    model = write.model()
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    model.opset_import.append(onnx.helper.make_opsetid("unused", 1))
    found = opened(model, tmp_path)

    stages = written(found, found.named("hidden"), tmp_path)

    domains = [{each.domain for each in onnx.load(stage.file.path).opset_import} for stage in stages]
    assert domains == [{""}, {"", "com.microsoft"}]
    rows = random_rows(model, 3)
    np.testing.assert_array_equal(chain(stages, rows)[-1], tensors(model, ["answer"], rows)[0])


def test_a_head_that_does_not_fit_its_cut_is_refused(tmp_path: Path) -> None:
    found = opened(networks.table_network(), tmp_path)
    cuts = found.named("hidden_0", "hidden_1")
    heads = random_heads(cuts, 4)

    with pytest.raises(
        ValueError, match=r'head at "hidden_0": expected \(9, 4\) inputs and classes, got \(8, 4\)'
    ):
        write_stages(found.source, cuts, heads[::-1], tmp_path, total=found.measured.total)
    with pytest.raises(ValueError, match="heads: expected one for each of 2 cuts, got 1"):
        write_stages(found.source, cuts, heads[:1], tmp_path, total=found.measured.total)
