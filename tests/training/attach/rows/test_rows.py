import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.repository.manifest import TensorSpec
from training.attach.rows.rows import Rows, check_labels, read_rows
from training.errors import DatasetError

IMAGE = TensorSpec(name="image", datatype="FP32", shape=(-1, 3, 4, 5))
TOKENS = (
    TensorSpec(name="input_ids", datatype="INT64", shape=(-1, 6)),
    TensorSpec(name="attention_mask", datatype="INT64", shape=(-1, 6)),
)
Array = NDArray[Any]


def images(rows: int = 8) -> Array:
    return np.random.default_rng(0).random((rows, 3, 4, 5), dtype=np.float32)


def tokens(rows: int = 8) -> Array:
    return np.random.default_rng(1).integers(0, 1000, (rows, 6))


def save(path: Path, **arrays: Array) -> Path:
    np.savez(path, allow_pickle=False, **arrays)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.npz"


def test_rows_are_read_unchanged(file: Path) -> None:
    labels = np.array([2, 0, 1, 1, 2, 0, 0, 1], np.uint8)
    rows = read_rows(save(file, image=images(), y=labels), [IMAGE])

    assert len(rows) == 8
    np.testing.assert_array_equal(rows.inputs["image"], images())
    assert rows.truth_N is not None
    assert rows.truth_N.tolist() == labels.tolist()
    batch = rows.batch(6, 9)["image"]
    np.testing.assert_array_equal(batch, images()[6:])
    assert batch.flags.c_contiguous
    assert batch.flags.aligned


def test_labels_are_optional(file: Path) -> None:
    assert read_rows(save(file, image=images()), [IMAGE]).truth_N is None


def test_the_only_input_may_be_named_x(file: Path) -> None:
    rows = read_rows(save(file, x=images()), [IMAGE])
    np.testing.assert_array_equal(rows.inputs["image"], images())


def test_every_input_of_a_graph_is_read_under_its_name(file: Path) -> None:
    mask = np.ones((8, 6), np.int64)
    rows = read_rows(save(file, input_ids=tokens(), attention_mask=mask), TOKENS)
    assert list(rows.inputs) == ["input_ids", "attention_mask"]
    np.testing.assert_array_equal(rows.inputs["attention_mask"], mask)


def test_an_input_named_y_is_not_labels(file: Path) -> None:
    rows = read_rows(save(file, y=images()), [TensorSpec(name="y", datatype="FP32", shape=IMAGE.shape)])
    assert rows.truth_N is None
    np.testing.assert_array_equal(rows.inputs["y"], images())


@pytest.mark.parametrize("order", ["C", "F"])
def test_compressed_and_uncompressed_files_give_equal_rows(tmp_path: Path, order: Any) -> None:  # noqa: ANN401
    array = np.array(images(), order=order)
    plain = read_rows(save(tmp_path / "plain.npz", image=array), [IMAGE])
    np.savez_compressed(tmp_path / "small.npz", image=images())
    compressed = read_rows(tmp_path / "small.npz", [IMAGE])

    assert plain.digest == compressed.digest
    np.testing.assert_array_equal(plain.batch(0, 8)["image"], compressed.batch(0, 8)["image"])


def test_an_uncompressed_file_is_mapped(file: Path) -> None:
    array = read_rows(save(file, image=images()), [IMAGE]).inputs["image"]
    assert isinstance(array.base, np.memmap)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({}, r"expected arrays image \(or x\) and optional labels y, got no image$"),
        ({"y": np.arange(8)}, r"expected arrays image \(or x\).*, got no image$"),
        ({"image": images(), "mask": images()}, r"got unknown mask$"),
        ({"image": images(), "x": images()}, r"got unknown x$"),
        ({"picture": images()}, r"got no image and unknown picture$"),
    ],
)
def test_missing_and_unknown_arrays_are_named(file: Path, arrays: dict[str, Array], complaint: str) -> None:
    with pytest.raises(DatasetError, match=rf"^{file}: .*{complaint}"):
        read_rows(save(file, **arrays), [IMAGE])


def test_x_is_refused_for_a_graph_with_two_inputs(file: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"expected arrays input_ids, attention_mask .* got no input_ids and unknown x"
    ):
        read_rows(save(file, x=tokens(), attention_mask=tokens()), TOKENS)


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (
            images().astype(np.float64),
            r'float32, got float64: if no value .*, array.astype\("float32"\)',
        ),
        (
            images().astype(np.float16),
            r'float32, got float16: if no value .*, array.astype\("float32"\)',
        ),
        (images().astype(np.uint8), r"float32, got uint8: scale it as in training, then array"),
        (images().astype(">f4"), r"float32, got >f4: if no value is lost, array.astype"),
        (images().astype("S3"), r"float32, got \|S3$"),
        (images().astype(np.complex64), r"float32, got complex64$"),
    ],
)
def test_a_wrong_datatype_is_refused_with_a_cast_to_try(file: Path, array: Array, complaint: str) -> None:
    with pytest.raises(DatasetError, match=f"image: expected {complaint}"):
        read_rows(save(file, image=array), [IMAGE])


def test_int32_is_not_int64(file: Path) -> None:
    with pytest.raises(
        DatasetError,
        match=r'input_ids: expected int64, got int32: if no value is lost, array.astype\("int64"\)',
    ):
        read_rows(save(file, input_ids=tokens().astype(np.int32), attention_mask=tokens()), TOKENS)


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (images().transpose(0, 2, 3, 1), r"\[8, 4, 5, 3\]: if its channels are last, .*\(0, 3, 1, 2\) puts"),
        (images().transpose(0, 1, 3, 2), r"\[8, 3, 5, 4\]: if its axes are in another order"),
        (images()[0], r"\[3, 4, 5\]: a single row also needs a first axis: array\[None\]"),
        (images().reshape(8, 60), r"\[8, 60\]: if only an axis is missing, array.reshape\(-1, 3, 4, 5\)"),
        (images()[:, :, :3], r"\[8, 3, 3, 5\]$"),
        (np.float32(1.0), r"\[\]$"),
    ],
)
def test_a_wrong_shape_is_refused_with_a_hint(file: Path, array: Array, complaint: str) -> None:
    with pytest.raises(DatasetError, match=rf"image: expected shape \[N, 3, 4, 5\], got {complaint}"):
        read_rows(save(file, image=array), [IMAGE])


def test_a_hint_moves_channels_last(file: Path) -> None:
    last = TensorSpec(name="image", datatype="FP32", shape=(-1, 4, 5, 3))
    with pytest.raises(
        DatasetError, match=r"if its channels are first, array.transpose\(0, 2, 3, 1\) puts them last"
    ):
        read_rows(save(file, image=images()), [last])


def test_the_suggested_transpose_is_right(file: Path) -> None:
    read_rows(save(file, image=images().transpose(0, 2, 3, 1).transpose(0, 3, 1, 2)), [IMAGE])
    last = TensorSpec(name="image", datatype="FP32", shape=(-1, 4, 5, 3))
    read_rows(save(file, image=images().transpose(0, 2, 3, 1)), [last])


def test_inputs_with_different_row_counts_are_refused(file: Path) -> None:
    with pytest.raises(DatasetError, match="attention_mask: expected 8 rows, as input_ids has, got 7"):
        read_rows(save(file, input_ids=tokens(8), attention_mask=tokens(7)), TOKENS)


def test_an_empty_array_is_refused(file: Path) -> None:
    with pytest.raises(DatasetError, match="image: expected at least 1 row, got 0"):
        read_rows(save(file, image=images(0)), [IMAGE])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_reported_with_its_row(file: Path, value: float) -> None:
    array = images()
    array[5, 2, 0, 1] = value
    with pytest.raises(DatasetError, match=f"image: row 5: expected finite numbers, got {value}"):
        read_rows(save(file, image=array), [IMAGE])


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (np.arange(7), r"expected integer labels of shape \[8\], one per row, got int64 \[7\]"),
        (np.zeros((8, 1), int), r"expected integer labels of shape \[8\].*, got int64 \[8, 1\]"),
        (np.zeros(8), r"expected integer labels .*, got float64 \[8\]"),
        (np.full(8, 2**63, np.uint64), r"row 0: expected a label below 2\^63, got 9223372036854775808"),
    ],
)
def test_invalid_labels_are_refused(file: Path, labels: Array, complaint: str) -> None:
    with pytest.raises(DatasetError, match=f"y: {complaint}"):
        read_rows(save(file, image=images(), y=labels), [IMAGE])


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_classes_is_reported_with_its_row(file: Path, label: int) -> None:
    labels = np.array([0, 1, 2, 0, label, 2, 0, 1])
    rows = read_rows(save(file, image=images(), y=labels), [IMAGE])
    with pytest.raises(DatasetError, match=rf"y: row 4: expected a label 0..2, got {label}"):
        check_labels(rows, 3)


def test_valid_labels_and_no_labels_pass(file: Path) -> None:
    check_labels(read_rows(save(file, image=images(), y=np.arange(8) % 3), [IMAGE]), 3)
    check_labels(read_rows(save(file, image=images()), [IMAGE]), 3)


@pytest.mark.parametrize("save_arrays", [np.savez, np.savez_compressed])
def test_objects_are_never_unpickled(file: Path, save_arrays: Callable[..., None]) -> None:
    save_arrays(file, allow_pickle=True, image=np.array([{}, []], dtype=object))
    message = "image: expected a complete, plain array, got: Python objects; save plain arrays$"
    with pytest.raises(DatasetError, match=message):
        read_rows(file, [IMAGE])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere.npz: expected an .npz file, got no such file"):
        read_rows(tmp_path / "nowhere.npz", [IMAGE])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused(file: Path, share: float) -> None:
    save(file, image=images())
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(DatasetError, match=r"expected a complete .npz file, got: "):
        read_rows(file, [IMAGE])


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_a_flipped_bit_is_detected(file: Path, write: Callable[..., None]) -> None:
    write(file, image=images(200))
    content = bytearray(file.read_bytes())
    content[2000] ^= 1
    file.write_bytes(content)
    with pytest.raises(DatasetError, match="image: expected a complete, plain array, got: "):
        read_rows(file, [IMAGE])


def member(shape: str, data: bytes, descr: str = "'<f4'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    "content",
    [
        member("(4, 3, 4, 5)", b"\0" * 236),  # fewer bytes than the shape says
        member("(1, 3, 4, 5)", b"\0" * 480),  # more
        member("(-1, 3, 4, 5)", b"\0" * 240),
        member("(1000000000000, 3, 4, 5)", b"\0" * 240),
        member("(1, 3, 4, 5)", b"\0" * 240).replace(b"NUMPY\x01", b"NUMPY\x09"),
        b"no array at all",
        b"",
    ],
)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_with_a_wrong_header_is_refused(file: Path, content: bytes, compression: int) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("image.npy", content, compression)
    with pytest.raises(DatasetError, match="image: expected"):
        read_rows(file, [IMAGE])


def test_equal_rows_are_found_across_all_inputs(file: Path) -> None:
    ids, mask = tokens(), np.ones((8, 6), np.int64)
    ids[3] = ids[5] = ids[7] = ids[1]
    mask[5, 2] = 0
    rows = read_rows(save(file, input_ids=ids, attention_mask=mask), TOKENS)

    assert rows.first_equal_N.tolist() == [0, 1, 2, 1, 4, 5, 6, 1]
    assert rows.distinct_N.tolist() == [0, 1, 2, 4, 5, 6]
    assert rows.repeats == 2


def test_any_change_of_the_rows_changes_the_digest(tmp_path: Path) -> None:
    def read(name: str, **arrays: Array) -> Rows:
        return read_rows(save(tmp_path / f"{name}.npz", **arrays), [IMAGE])

    changed = images()
    changed[7, 2, 3, 4] += 1
    plain = read("plain", image=images())
    labelled = read("labelled", image=images(), y=np.zeros(8, int))
    others = [read("changed", image=changed), read("fewer", image=images()[:7])]

    assert read("again", x=images()).digest == plain.digest
    assert len({each.inputs_digest for each in (plain, *others)}) == 3
    assert labelled.inputs_digest == plain.inputs_digest
    assert labelled.digest != plain.digest


def test_a_file_of_another_format_is_refused(file: Path) -> None:
    np.save(file.with_suffix(".npy"), images())
    with pytest.raises(DatasetError, match=r"expected a complete .npz file, got: File is not a zip file"):
        read_rows(file.with_suffix(".npy"), [IMAGE])
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("readme.txt", "no rows here")
    file.write_bytes(content.getvalue())
    with pytest.raises(DatasetError, match=r"readme.txt: expected a complete, plain array"):
        read_rows(file, [IMAGE])
