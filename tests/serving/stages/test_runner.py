from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.datatypes import DTYPES, Datatype
from serving.errors import RepositoryError
from serving.repository.repository import PublishedVersion, read_version
from serving.stages.devices import CPU
from serving.stages.runner import StageFile, StageRunner, stage_files
from tests.serving import scripted_model, token_model
from tests.serving.scripted_model import STAGES, row

SLOTS = 16

HARD_ROWS = st.lists(
    st.builds(
        lambda label, margins: row(label, *margins), st.integers(0, 2), st.tuples(*[st.floats(0, 9)] * 3)
    ),
    min_size=1,
    max_size=SLOTS,
)


@pytest.fixture(scope="module")
def runner(version: PublishedVersion) -> StageRunner:
    return StageRunner(stage_files(version), version.manifest.inputs, CPU, slots=SLOTS)


def run_plain_sessions(version: PublishedVersion, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run the stages with plain onnxruntime sessions, without bindings or slabs."""
    logits_ENK = []
    inputs: dict[str, NDArray[np.generic]] = {"image": images}
    for number in range(STAGES):
        session = onnxruntime.InferenceSession(version.stage_path(number))
        names = [output.name for output in session.get_outputs()]
        outputs = dict(zip(names, session.run(None, inputs), strict=True))
        logits_ENK.append(outputs.pop("logits"))
        inputs = {"rows": np.arange(len(images)), **outputs}
    return np.stack(logits_ENK)


@settings(max_examples=25, deadline=None)
@given(HARD_ROWS)
def test_the_chain_through_slabs_equals_plain_sessions(
    runner: StageRunner, version: PublishedVersion, rows: list[NDArray[np.uint8]]
) -> None:
    images = np.stack(rows)

    logits_ENK = runner.run_every_stage({"image": images})

    np.testing.assert_allclose(logits_ENK, run_plain_sessions(version, images), rtol=1e-6)


@pytest.mark.parametrize("datatype", DTYPES)
def test_an_input_of_any_datatype_reaches_every_stage(tmp_path: Path, datatype: Datatype) -> None:
    version = read_version(token_model.publish(tmp_path, mask_datatype=datatype))
    runner = StageRunner(stage_files(version), version.manifest.inputs, CPU, slots=SLOTS)
    random = np.random.default_rng(0)
    token_ids = random.integers(0, token_model.KNOWN_TOKENS, (2 * SLOTS + 3, token_model.TOKENS))
    mask = random.integers(0, 2, token_ids.shape).astype(DTYPES[datatype])

    logits_ENK = runner.run_every_stage({"token_ids": token_ids, "attention_mask": mask})

    np.testing.assert_array_equal(logits_ENK, token_model.logits(token_ids, mask))


def test_more_rows_than_slots_run_in_several_batches(runner: StageRunner, version: PublishedVersion) -> None:
    images = np.stack([row(number % 3, 1, 2, number % 20 / 2) for number in range(2 * SLOTS + 3)])

    logits_ENK = runner.run_every_stage({"image": images})

    np.testing.assert_allclose(logits_ENK, run_plain_sessions(version, images), rtol=1e-6)


def test_a_stage_gathers_scattered_slots_in_any_order(runner: StageRunner) -> None:
    runner.run(0, {"image": np.stack([row(n, 1, n, 1) for n in range(3)])}, destination=2)
    runner.run(0, {"image": np.stack([row(n, 1, 5 + n, 1) for n in range(3)])}, destination=11)

    logits_BK = runner.run(1, {"rows": np.array([13, 2, 11, 4])}, destination=0)

    assert logits_BK.argmax(axis=1).tolist() == [2, 0, 0, 2]
    assert logits_BK.max(axis=1).tolist() == [7.0, 0.0, 5.0, 2.0]


def test_a_run_does_not_change_slots_outside_its_destination(runner: StageRunner) -> None:
    runner.run(0, {"image": np.stack([row(1, 1, 3, 1)])}, destination=5)
    runner.run(0, {"image": np.stack([row(2, 1, 9, 1)] * 4)}, destination=6)
    runner.run(0, {"image": np.stack([row(2, 1, 9, 1)] * 5)}, destination=0)

    assert runner.run(1, {"rows": np.array([5])}, destination=0).tolist() == [[0.0, 3.0, 0.0]]


def test_concurrent_runs_at_different_destinations_do_not_mix(version: PublishedVersion) -> None:
    callers, rows = 4, 8
    runner = StageRunner(stage_files(version), version.manifest.inputs, CPU, slots=callers * rows)

    def run_stages(caller: int) -> bool:
        images = np.stack([row(caller % 3, 1, caller, n) for n in range(rows)])
        slots = np.arange(caller * rows, (caller + 1) * rows)
        runner.run(0, {"image": images}, int(slots[0]))
        middle_BK = runner.run(1, {"rows": slots}, int(slots[0]))
        final_BK = runner.run(2, {"rows": slots[::-1].copy()}, 0)
        return bool(
            (middle_BK.max(axis=1) == caller).all() and (final_BK.max(axis=1) == np.arange(rows)[::-1]).all()
        )

    with ThreadPoolExecutor(callers) as pool:
        assert all(pool.map(run_stages, list(range(callers)) * 50))


def test_repeated_runs_give_identical_bits(runner: StageRunner) -> None:
    images = np.stack([row(1, 0.3, 0.7, 1.1), row(2, 0.1, 0.2, 0.3)])

    first, second = (runner.run_every_stage({"image": images}) for _ in range(2))

    assert first.tobytes() == second.tobytes()


def test_a_file_that_is_not_onnx_is_a_repository_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "stage-0.onnx").write_bytes(b"not a model")

    with pytest.raises(RepositoryError, match=r"stage-0\.onnx: onnxruntime cannot load it"):
        StageRunner(
            [StageFile(tmp_path / "stage-0.onnx", ())],
            [scripted_model.IMAGE],
            CPU,
            slots=4,
        )
