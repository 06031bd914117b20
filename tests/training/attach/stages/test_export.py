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
from tests.training.attach.measured_networks import open_network, random_heads, run_chain, write_random_stages
from tests.training.attach.networks import Arrays, random_rows, session, tensors
from tests.training.attach.random_graphs import random_graphs
from training.attach.heads.pooling import pooled_model
from training.attach.network.cuts import Cut
from training.attach.network.multiply_adds import multiply_adds
from training.attach.stages.export import write_stages


def pairs(cuts: Sequence[Cut]) -> list[tuple[Cut, ...]]:
    """Return pairs of cuts, neighbouring and distant."""
    return [*combinations(cuts[:: max(1, len(cuts) // 4)], 2), tuple(cuts[-2:])]


@pytest.mark.parametrize("opset", networks.OPSETS)
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_the_chain_of_stages_is_bitwise_equal_to_the_file(name: str, opset: int, tmp_path: Path) -> None:
    network = open_network(networks.NETWORKS[name](opset), tmp_path)
    rows = network.rows(9)
    (expected_BK,) = tensors(network.source.model, [network.source.logits], rows)

    for cuts in pairs(network.cuts):
        logits = run_chain(write_random_stages(network, cuts, tmp_path), rows)

        np.testing.assert_array_equal(logits[-1], expected_BK)


@settings(max_examples=60, deadline=None)
@given(model=random_graphs(), data=st.data())
def test_the_stages_of_a_random_graph_are_bitwise_equal_to_the_file(
    model: onnx.ModelProto, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("graph")
    network = open_network(model, folder)
    chosen = data.draw(st.lists(st.booleans(), min_size=len(network.cuts), max_size=len(network.cuts)))
    cuts = [cut for cut, is_chosen in zip(network.cuts, chosen, strict=True) if is_chosen]
    rows = network.rows(5)

    logits = run_chain(write_random_stages(network, cuts, folder), rows)

    np.testing.assert_array_equal(logits[-1], tensors(network.source.model, [network.source.logits], rows)[0])


@settings(max_examples=15, deadline=None)
@given(blocks=st.integers(1, 4), seed=st.integers(0, 99), data=st.data())
def test_the_stages_of_a_residual_network_are_bitwise_equal_to_the_file(
    blocks: int, seed: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("network")
    network = open_network(networks.convnet(blocks=blocks, seed=seed), folder)
    chosen = data.draw(st.sets(st.integers(0, len(network.cuts) - 1), max_size=3))
    rows = network.rows(3, seed)

    logits = run_chain(
        write_random_stages(network, [network.cuts[number] for number in sorted(chosen)], folder), rows
    )

    np.testing.assert_array_equal(logits[-1], tensors(network.source.model, [network.source.logits], rows)[0])


@pytest.mark.parametrize("opset", networks.OPSETS)
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_an_early_exit_answers_as_its_head_on_pooled_features(name: str, opset: int, tmp_path: Path) -> None:
    network = open_network(networks.NETWORKS[name](opset), tmp_path)
    cuts = network.cuts[:: max(1, len(network.cuts) // 3)]
    rows = network.rows(9)

    *logits, _final = run_chain(write_random_stages(network, cuts, tmp_path), rows)

    *pooled, _logits = session(pooled_model(network.source, cuts)).run(None, rows)
    for head, features, got in zip(random_heads(cuts, network.source.classes), pooled, logits, strict=True):
        np.testing.assert_allclose(got, head.logits(features), atol=1e-5)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_the_stage_runner_runs_the_written_stages(name: str, tmp_path: Path) -> None:
    network = open_network(networks.NETWORKS[name](17), tmp_path)
    stages = write_random_stages(network, network.cuts[1::2], tmp_path)
    rows = network.rows(9)

    runner = StageRunner([stage.file for stage in stages], network.source.inputs, CPU, slots=4)

    logits_ENK = runner.run_every_stage(rows)
    (expected_NK,) = tensors(network.source.model, [network.source.logits], rows)
    np.testing.assert_allclose(logits_ENK[-1], expected_NK, atol=1e-5)


def shapes(values: Sequence[onnx.ValueInfoProto]) -> dict[str, list[int | str]]:
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in values
    }


def test_stages_take_and_return_tensors_under_the_manifests_names(tmp_path: Path) -> None:
    network = open_network(networks.encoder(), tmp_path)

    stages = write_random_stages(network, network.named("layer_0", "layer_1"), tmp_path)

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
    network = open_network(networks.encoder(), tmp_path)
    cuts = network.named("attended_1", "layer_1")

    stages = write_random_stages(network, cuts, tmp_path)

    assert cuts[0].carried == ()
    assert [spec.name for spec in stages[0].file.features] == ["features_0", "attention_mask_0"]


def test_tensors_with_reserved_names_are_renamed(tmp_path: Path) -> None:
    network = open_network(networks.colliding_network(), tmp_path)

    stages = write_random_stages(network, network.named("features_0", "x_0_1"), tmp_path)

    features = [[spec.name for spec in stage.file.features] for stage in stages]
    assert features == [["features_0", "x_0.1", "x_0_0"], ["features_1", "x_1"], []]
    for stage in stages:
        graph = onnx.load(stage.file.path).graph
        assert graph.output[0].name == "logits"
        computed = [name for node in graph.node for name in node.output]
        initialisers = [tensor.name for tensor in graph.initializer]
        inputs = [value.name for value in graph.input]
        assert len({*computed, *initialisers, *inputs}) == len(computed) + len(initialisers) + len(inputs)


def test_an_input_may_have_the_name_of_a_feature(tmp_path: Path) -> None:
    write = networks.Writer(17)
    value = write.linear(write.input("features", 4), 4, 4, "hidden")
    write.linear(write.add("Add", value, "features"), 4, 3, "answer")
    write.output("answer", 3)
    network = open_network(write.model(), tmp_path)
    rows = network.rows(3)

    stages = write_random_stages(network, network.named("hidden"), tmp_path)

    assert [spec.name for spec in stages[0].file.features] == ["features_0", "features_0.1"]
    np.testing.assert_array_equal(run_chain(stages, rows)[-1], tensors(write.model(), ["answer"], rows)[0])


@pytest.mark.parametrize("opset", networks.OPSETS)
def test_stages_keep_the_files_opset_and_ir_version(opset: int, tmp_path: Path) -> None:
    model = networks.encoder(opset)
    network = open_network(model, tmp_path)

    for stage in write_random_stages(network, network.named("layer_0"), tmp_path):
        read = onnx.load(stage.file.path)
        assert [(opset_id.domain, opset_id.version) for opset_id in read.opset_import] == [("", opset)]
        assert read.ir_version == model.ir_version


def test_weights_are_copied_bitwise_and_shared_weights_to_every_stage(tmp_path: Path) -> None:
    model = networks.sharing_network()
    network = open_network(model, tmp_path)

    stages = write_random_stages(network, network.named("layer_0", "layer_1"), tmp_path)

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for stage in stages:
        initialisers = {tensor.name: tensor for tensor in onnx.load(stage.file.path).graph.initializer}
        assert initialisers["shared"] == weights["shared"]


def test_a_stage_contains_only_the_weights_it_uses(tmp_path: Path) -> None:
    network = open_network(networks.convnet(), tmp_path)

    stages = write_random_stages(network, network.named("stem", "block_0"), tmp_path)

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
def test_multiply_adds_of_a_stage_equal_those_counted_in_its_file(name: str, tmp_path: Path) -> None:
    network = open_network(networks.NETWORKS[name](17), tmp_path)
    stages = write_random_stages(network, network.cuts[1::3], tmp_path)

    taken = network.rows(1)
    for stage in stages:
        assert counted(stage.file.path, taken) == stage.multiply_adds
        names = [spec.name for spec in stage.file.features]
        taken = dict(zip(names, session(stage.file.path).run(names or ["logits"], taken), strict=False))
        taken["rows"] = np.zeros(1, np.int64)


def test_parameters_of_a_stage_count_its_nodes_and_its_head(tmp_path: Path) -> None:
    network = open_network(networks.table_network(), tmp_path)
    cuts = network.named("hidden_0")

    first, last = write_random_stages(network, cuts, tmp_path)

    (head,) = random_heads(cuts, 4)
    assert first.parameters == 7 * 9 + 9 + head.parameters
    assert last.parameters == 9 * 8 + 8 + 8 * 4


def test_metadata_of_the_exporter_is_removed(tmp_path: Path) -> None:
    model = networks.convnet()
    for node in model.graph.node:
        node.doc_string = "/home/somebody/train.py"
        node.metadata_props.add(key="stack", value="/home/somebody/train.py")
    network = open_network(model, tmp_path)

    for stage in write_random_stages(network, network.named("stem"), tmp_path):
        assert b"somebody" not in stage.file.path.read_bytes()


def test_the_same_cuts_and_heads_give_the_same_bytes(tmp_path: Path) -> None:
    network = open_network(networks.encoder(), tmp_path)
    cuts = network.named("layer_0")
    first = [stage.file.path.read_bytes() for stage in write_random_stages(network, cuts, tmp_path)]

    again = [stage.file.path.read_bytes() for stage in write_random_stages(network, cuts, tmp_path)]

    assert again == first


def test_without_cuts_there_is_one_stage(tmp_path: Path) -> None:
    network = open_network(networks.two_class_network(), tmp_path)

    (stage,) = write_random_stages(network, (), tmp_path)

    assert stage.file.features == ()
    assert stage.multiply_adds == network.measured.total


def test_operators_of_another_domain_keep_their_domain(tmp_path: Path) -> None:
    write = networks.Writer(17)
    hidden = write.linear(write.input("figures", 7), 7, 6, "hidden")
    write.nodes.append(onnx.helper.make_node("Gelu", [hidden], ["active"], domain="com.microsoft"))
    write.linear("active", 6, 3, "answer")
    write.output("answer", 3)
    model = write.model()
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    model.opset_import.append(onnx.helper.make_opsetid("unused", 1))
    network = open_network(model, tmp_path)

    stages = write_random_stages(network, network.named("hidden"), tmp_path)

    domains = [{opset_id.domain for opset_id in onnx.load(stage.file.path).opset_import} for stage in stages]
    assert domains == [{""}, {"", "com.microsoft"}]
    rows = random_rows(model, 3)
    np.testing.assert_array_equal(run_chain(stages, rows)[-1], tensors(model, ["answer"], rows)[0])


def test_a_head_that_does_not_fit_its_cut_is_refused(tmp_path: Path) -> None:
    network = open_network(networks.table_network(), tmp_path)
    cuts = network.named("hidden_0", "hidden_1")
    heads = random_heads(cuts, 4)

    with pytest.raises(
        ValueError, match=r'head at "hidden_0": expected \(9, 4\) inputs and classes, got \(8, 4\)'
    ):
        write_stages(network.source, cuts, heads[::-1], tmp_path, total=network.measured.total)
    with pytest.raises(ValueError, match="heads: expected one for each of 2 cuts, got 1"):
        write_stages(network.source, cuts, heads[:1], tmp_path, total=network.measured.total)
