"""Blocks, and opening stages that do not match their manifest."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.errors import InvalidManifest, RepositoryError
from serving.repository.manifest import TensorSpec
from serving.repository.repository import PublishedVersion
from serving.stages.blocks import Block, open_stages
from serving.stages.devices import CPU, Device
from serving.stages.runner import StageRunner, stage_files
from tests.serving.scripted_model import make_manifest, row

ROWS = 6
BLOCKS = 3
PADDED = replace(CPU, padded=True)


def open_runner(version: PublishedVersion, device: Device = CPU) -> StageRunner:
    return StageRunner(
        stage_files(version),
        version.manifest.inputs,
        device,
        slots=BLOCKS * ROWS,
        idle_threads=2,
        padded_sizes=device.batch_sizes(ROWS),
    )


def make_block(runner: StageRunner, stage: int, number: int = 0) -> Block:
    return Block(runner, stage, number * ROWS, ROWS)


def images(margins: list[int], exit_number: int = 0) -> NDArray[np.uint8]:
    """Return rows whose largest logit at an exit is the given margin."""
    at = [0, 0, 0]
    rows = []
    for margin in margins:
        at[exit_number] = margin
        rows.append(row(1, *at))
    return np.stack(rows)


def fill(block: Block, rows: NDArray[np.uint8]) -> None:
    block.inputs["image"][: len(rows)] = rows


@settings(max_examples=40, deadline=None)
@given(
    batches=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=ROWS), min_size=2, max_size=8),
    padded=st.booleans(),
    all_cores=st.booleans(),
)
def test_each_batch_of_a_block_gets_the_logits_of_its_own_rows(
    version: PublishedVersion, batches: list[list[int]], *, padded: bool, all_cores: bool
) -> None:
    block = make_block(open_runner(version, PADDED if padded else CPU), 0)

    for margins in batches:
        fill(block, images(margins))
        logits_BK = block.run(len(margins), all_cores=all_cores)
        assert logits_BK.shape == (len(margins), 3)
        assert logits_BK.max(axis=1).tolist() == margins


def test_a_binding_is_reused_for_the_same_number_of_rows(version: PublishedVersion) -> None:
    block = make_block(open_runner(version), 0)
    block.run(2)
    bound = block._bound[2, False]

    block.run(3)
    block.run(2)

    assert block._bound[2, False] is bound
    assert set(block._bound) == {(2, False), (3, False)}


def test_a_padded_device_runs_batches_of_two_sizes(version: PublishedVersion) -> None:
    block = make_block(open_runner(version, PADDED), 0)

    for rows in range(1, ROWS + 1):
        block.run(rows)

    assert {size for size, _ in block._bound} == {1, ROWS}


@pytest.mark.parametrize("device", [CPU, PADDED], ids=["exact", "padded"])
def test_a_run_does_not_change_the_features_of_other_blocks(
    version: PublishedVersion, device: Device
) -> None:
    runner = open_runner(version, device)
    first, kept, last = (make_block(runner, 0, number) for number in range(BLOCKS))
    fill(kept, images([1, 2, 3, 4, 5, 6], exit_number=1))
    kept.run(ROWS)
    for other in (first, last):
        fill(other, images([9] * ROWS, exit_number=1))
        other.run(5)

    later = make_block(runner, 1)
    later.inputs["rows"][:] = kept.slots

    assert later.run(ROWS).max(axis=1).tolist() == [1, 2, 3, 4, 5, 6]


def test_a_part_writes_its_features_to_the_same_slots_as_the_whole_batch(
    version: PublishedVersion,
) -> None:
    runner = open_runner(version)
    block, later = make_block(runner, 0, 1), make_block(runner, 1)
    fill(block, images([9] * ROWS, exit_number=1))
    block.run(ROWS)
    fill(block, images([1, 2, 3, 4, 5, 6], exit_number=1))

    block.run_part(slice(2, 4))

    later.inputs["rows"][:] = block.slots
    assert later.run(ROWS).max(axis=1).tolist() == [9, 9, 3, 4, 9, 9]


def test_blocks_of_a_stage_have_different_slots(version: PublishedVersion) -> None:
    _, _, blocks = open_stages(version, CPU, max_batch_size=ROWS, blocks=[3, 2, 1], idle_threads=1)

    assert [len(blocks_of_stage) for blocks_of_stage in blocks] == [3, 2, 1]
    for of_stage in blocks:
        slots = np.concatenate([block.slots for block in of_stage]).tolist()
        assert slots == list(range(len(of_stage) * ROWS))


def changed(folder: Path, **changes: object) -> PublishedVersion:
    return PublishedVersion(folder, make_manifest("scripted", 1, folder, **changes))


def open_on_cpu(version: PublishedVersion) -> None:
    open_stages(version, CPU, max_batch_size=4, blocks=[1, 1, 1], idle_threads=1)


def test_a_number_of_labels_other_than_the_logits_is_refused(version: PublishedVersion) -> None:
    with pytest.raises(InvalidManifest, match="labels: expected 3, the width of the logits, got 2"):
        open_on_cpu(changed(version.folder, labels=("ant", "bee")))


@pytest.mark.parametrize(
    "image",
    [
        TensorSpec(name="picture", datatype="UINT8", shape=(-1, 1, 2, 3)),
        TensorSpec(name="image", datatype="UINT8", shape=(-1, 3, 2, 1)),
        TensorSpec(name="image", datatype="FP32", shape=(-1, 1, 2, 3)),
        TensorSpec(name="image", datatype="UINT8", shape=(-1, 6)),
    ],
    ids=["name", "shape", "datatype", "rank"],
)
def test_inputs_missing_in_the_graph_are_refused_in_one_line(
    version: PublishedVersion, image: TensorSpec
) -> None:
    with pytest.raises(RepositoryError, match="the stages do not fit the manifest") as refusal:
        open_on_cpu(changed(version.folder, inputs=(image,)))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "features",
    [
        TensorSpec(name="other", datatype="FP32", shape=(-1, 6)),
        TensorSpec(name="features_0", datatype="FP64", shape=(-1, 6)),
        TensorSpec(name="features_0", datatype="FP32", shape=(-1, 5)),
        TensorSpec(name="features_0", datatype="FP32", shape=(-1, 7)),
        TensorSpec(name="features_0", datatype="FP32", shape=(-1, 2, 3)),
    ],
    ids=["name", "datatype", "smaller", "larger", "rank"],
)
def test_features_missing_in_the_graph_are_refused_in_one_line(
    version: PublishedVersion, features: TensorSpec
) -> None:
    stages = version.manifest.stages
    first = stages[0].model_copy(update={"features": (features,)})

    with pytest.raises(RepositoryError, match="the stages do not fit the manifest") as refusal:
        open_on_cpu(changed(version.folder, stages=(first, *stages[1:])))
    assert "\n" not in str(refusal.value)


def test_stages_in_the_wrong_order_are_refused(version: PublishedVersion) -> None:
    first, second, last = version.manifest.stages
    swapped = (first, second.model_copy(update={"file": last.file}), last)

    with pytest.raises(RepositoryError, match="the stages do not fit the manifest"):
        open_on_cpu(changed(version.folder, stages=swapped))
