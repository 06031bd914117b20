import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from tests.training.attach.measured_networks import open_network
from tests.training.attach.networks import Writer, convnet, random_rows, save
from training.attach.heads import features
from training.attach.heads.feature_files import STATE_FILE
from training.attach.heads.features import BATCH_ROWS, cache_features, expected_bytes
from training.attach.heads.pooling import pooled_model
from training.attach.network.sessions import open_session, run
from training.attach.network.source import read_source
from training.attach.rows.rows import Rows, read_rows
from training.errors import AttachError, NotFinite, RunError

COUNT = 3 * BATCH_ROWS + 5
Array = NDArray[Any]


class Prepared:
    """A network with two pooled levels, and rows for it, in a folder."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        network = open_network(convnet(seed=seed), folder)
        self.model = pooled_model(network.source, network.cuts[:2])
        self.folder = folder / "features"
        self.file = folder / "rows.npz"
        self.inputs = network.source.inputs
        self.images = network.rows(COUNT)["image"]

    def rows(self) -> Rows:
        np.savez(self.file, image=self.images)
        return read_rows(self.file, self.inputs)

    def outputs(self) -> list[Array]:
        names = [output.name for output in self.model.graph.output]
        return run(open_session(self.model), names, {"image": self.images})

    def overwrite(self, row: int, value: float) -> None:
        """Overwrite the first cached feature of a row."""
        cached = np.load(self.folder / "pooled_0.npy", mmap_mode="r+")
        cached[row, 0] = value
        cached.flush()


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return Prepared(tmp_path)


def test_cached_features_equal_the_models_outputs(prepared: Prepared) -> None:
    cached = cache_features(prepared.model, prepared.rows(), prepared.folder)

    *levels, logits_NK = prepared.outputs()
    assert len(cached.levels) == len(levels) == 2
    for got, expected in zip((*cached.levels, cached.logits_NK), (*levels, logits_NK), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_the_cache_has_the_expected_size(prepared: Prepared) -> None:
    rows = prepared.rows()
    cache_features(prepared.model, rows, prepared.folder)

    taken = sum(path.stat().st_size for path in prepared.folder.glob("*.npy"))
    assert taken == expected_bytes(prepared.model, len(rows))


def test_a_finished_cache_is_not_computed_again(prepared: Prepared) -> None:
    cache_features(prepared.model, prepared.rows(), prepared.folder)
    prepared.overwrite(7, 99.0)
    advanced: list[int] = []

    again = cache_features(prepared.model, prepared.rows(), prepared.folder, advanced.append)

    assert again.levels[0][7, 0] == 99.0
    assert advanced == [COUNT]


def test_a_cache_of_other_rows_is_replaced(prepared: Prepared) -> None:
    first = cache_features(prepared.model, prepared.rows(), prepared.folder)
    prepared.overwrite(7, 99.0)
    prepared.images[50] += 1

    second = cache_features(prepared.model, prepared.rows(), prepared.folder)

    assert second.key != first.key
    np.testing.assert_allclose(second.levels[0], prepared.outputs()[0], atol=1e-6)


def test_a_cache_of_another_network_is_replaced(prepared: Prepared, tmp_path: Path) -> None:
    cache_features(prepared.model, prepared.rows(), prepared.folder)
    other = Prepared(tmp_path, seed=4)

    cached = cache_features(other.model, other.rows(), prepared.folder)

    np.testing.assert_allclose(cached.levels[1], other.outputs()[1], atol=1e-6)


@pytest.mark.parametrize("written_after", [b"", b"half a row"])
def test_an_interrupted_cache_continues_after_the_last_saved_row(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, written_after: bytes
) -> None:
    monkeypatch.setattr(features, "SAVE_SECONDS", 0.0)
    interrupt_after(prepared, 2 * BATCH_ROWS)
    prepared.overwrite(7, 99.0)
    with (prepared.folder / "pooled_0.npy").open("ab") as file:
        file.write(written_after)
    advanced: list[int] = []

    cached = cache_features(prepared.model, prepared.rows(), prepared.folder, advanced.append)

    assert advanced == [2 * BATCH_ROWS, BATCH_ROWS, 5]
    expected = np.array(prepared.outputs()[0])
    expected[7, 0] = 99.0
    np.testing.assert_allclose(cached.levels[0], expected, atol=1e-6)


def test_unsaved_rows_are_computed_again(prepared: Prepared) -> None:
    interrupt_after(prepared, 2 * BATCH_ROWS)  # within seconds, so that nothing was safe
    advanced: list[int] = []

    cached = cache_features(prepared.model, prepared.rows(), prepared.folder, advanced.append)

    assert sum(advanced) == COUNT
    assert advanced[0] == 0
    np.testing.assert_allclose(cached.levels[0], prepared.outputs()[0], atol=1e-6)


def interrupt_after(prepared: Prepared, rows: int) -> None:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if done == rows:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache_features(prepared.model, prepared.rows(), prepared.folder, advance)


@pytest.mark.parametrize("spoil", ["truncated", "missing", "of another shape", "damaged state"])
def test_a_cache_that_does_not_fit_its_state_is_computed_again(prepared: Prepared, spoil: str) -> None:
    cache_features(prepared.model, prepared.rows(), prepared.folder)
    file = prepared.folder / "pooled_1.npy"
    if spoil == "truncated":
        file.write_bytes(file.read_bytes()[:-4])
    elif spoil == "missing":
        file.unlink()
    elif spoil == "of another shape":
        np.save(file, np.zeros((COUNT, 999), np.float32))
    else:
        (prepared.folder / STATE_FILE).write_text("{")

    cached = cache_features(prepared.model, prepared.rows(), prepared.folder)

    np.testing.assert_allclose(cached.levels[1], prepared.outputs()[1], atol=1e-6)


def test_rows_of_another_cache_are_never_reused(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = prepared.images, prepared.images + 1
    monkeypatch.setattr(features, "SAVE_SECONDS", 0.0)
    interrupt_after(prepared, 2 * BATCH_ROWS)
    monkeypatch.setattr(features, "SAVE_SECONDS", np.inf)
    prepared.images = other
    interrupt_after(prepared, 3 * BATCH_ROWS)
    prepared.images = first

    cached = cache_features(prepared.model, prepared.rows(), prepared.folder)

    np.testing.assert_allclose(cached.levels[0], prepared.outputs()[0], atol=1e-6)


def test_a_disk_that_is_too_small_is_reported_before_any_work(prepared: Prepared) -> None:
    width = prepared.model.graph.output[0].type.tensor_type.shape.dim[1]
    width.dim_value = 10**12

    with pytest.raises(RunError, match=r"features: expected [\d,]+ MiB free .*, got [\d,]+ MiB$"):
        cache_features(prepared.model, prepared.rows(), prepared.folder)

    assert not list(prepared.folder.iterdir())


def vectors(operator: str, *, bias: float = 0.0) -> onnx.ModelProto:
    """Build a network of 3 classes on rows [N, 4] whose level 0 is one operator."""
    write = Writer(17)
    write.add(operator, write.input("x", 4), name="pooled_0")
    write.add("MatMul", "pooled_0", write.weight(4, 3), name="product")
    write.add("Add", "product", write.add_constant([bias, 0.0, 0.0]), name="logits")
    write.output("pooled_0", 4)
    write.output("logits", 3)
    return write.model()


def rows_for(model: onnx.ModelProto, folder: Path, **arrays: Array) -> Rows:
    np.savez(folder / "rows.npz", allow_pickle=False, **arrays)
    return read_rows(folder / "rows.npz", read_source(save(model, folder), "logits").inputs)


def test_a_row_with_nan_features_is_named(tmp_path: Path) -> None:
    model = vectors("Sqrt")
    values = np.random.default_rng(0).random((50, 4), dtype=np.float32)
    values[41, 2] = -1

    with pytest.raises(
        NotFinite, match=r"rows.npz: row 41: expected finite pooled_0 of the network, got NaN or infinity$"
    ):
        cache_features(model, rows_for(model, tmp_path, x=values), tmp_path / "features")


def test_infinite_features_are_refused_too(tmp_path: Path) -> None:
    model = vectors("Reciprocal")
    values = np.ones((50, 4), np.float32)
    values[3, 0] = 0

    with pytest.raises(NotFinite, match="row 3: expected finite pooled_0"):
        cache_features(model, rows_for(model, tmp_path, x=values), tmp_path / "features")


def test_rows_that_are_all_of_one_class_are_refused(tmp_path: Path) -> None:
    model = vectors("Sigmoid", bias=50.0)
    values = np.random.default_rng(0).random((50, 4), dtype=np.float32)

    with pytest.raises(
        AttachError, match=r"rows.npz: expected rows of at least 2 .* classes, got class 0 for all 50$"
    ):
        cache_features(model, rows_for(model, tmp_path, x=values), tmp_path / "features")


def test_rows_that_the_network_cannot_run_on_are_named(tmp_path: Path) -> None:
    write = Writer(17)
    write.add("Gather", write.weight(10, 4), write.input("ids", 3, kind=TensorProto.INT64), name="looked_up")
    write.mean("looked_up", [1], keep=False, name="pooled_0")
    write.linear("pooled_0", 4, 3, "logits")
    write.output("pooled_0", 4)
    write.output("logits", 3)
    model = write.model()
    ids = np.random.default_rng(0).integers(0, 10, (50, 3))
    ids[40] = 10

    with pytest.raises(
        AttachError, match=r"rows.npz: rows 32 to 49: onnxruntime cannot run it: .*"
    ) as caught:
        cache_features(model, rows_for(model, tmp_path, ids=ids), tmp_path / "features")
    assert "\n" not in str(caught.value)


def test_a_network_with_two_inputs_is_cached(tmp_path: Path) -> None:
    write = Writer(17)
    write.add("Concat", write.input("a", 2), write.input("b", 3), name="pooled_0", axis=1)
    write.linear("pooled_0", 5, 3, "logits")
    write.output("pooled_0", 5)
    write.output("logits", 3)
    model = write.model()
    inputs = random_rows(model, 40)

    cached = cache_features(model, rows_for(model, tmp_path, **inputs), tmp_path / "features")

    np.testing.assert_array_equal(cached.levels[0], np.concatenate([inputs["a"], inputs["b"]], axis=1))
    state = json.loads((tmp_path / "features" / STATE_FILE).read_text())
    assert state == {"key": cached.key, "rows": 40}
