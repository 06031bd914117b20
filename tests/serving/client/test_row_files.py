"""The client's `predict` with an .npz file: an array for each input of the model."""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.serving.client.client_commands import predict
from tests.serving.live_server import LiveServer
from tests.serving.scripted_model import EASY, HARD
from tests.serving.token_model import BOOL_MASKED, NAME, ROWS_OF_TOKENS, TABLE


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return tmp_path / "rows.npz"


def write(file: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    np.savez(file, allow_pickle=True, **arrays)


PREDICTED = (
    "row  label  confidence  exit    reason\n"
    "0    1      0.9867      0 of 2  confident\n"
    "1    0      0.9867      1 of 2  confident\n"
)


def test_predict_takes_an_array_for_each_input(token_server: LiveServer, rows: Path) -> None:
    write(rows, ROWS_OF_TOKENS)

    assert predict(token_server, rows, model=BOOL_MASKED) == (0, PREDICTED, "")


def test_predict_names_the_arrays_that_it_neither_reads_nor_sends(
    token_server: LiveServer, rows: Path
) -> None:
    write(rows, {**ROWS_OF_TOKENS, "y": np.array([{}, {}], dtype=object)})

    assert predict(token_server, rows, model=BOOL_MASKED) == (
        0,
        PREDICTED,
        f"{rows}: not sent, the model has no such input: y\n",
    )


def test_predict_takes_a_single_array_of_any_name_for_the_only_input(
    token_server: LiveServer, rows: Path
) -> None:
    write(rows, {"numbers": np.array([[0, 9, 0]], np.float32)})

    code, output, errors = predict(token_server, rows, model=TABLE)

    assert (code, output.splitlines()[1].startswith("0    1  "), errors) == (0, True, "")


def test_predict_takes_the_only_input_under_the_name_x(token_server: LiveServer, rows: Path) -> None:
    write(rows, {"y": np.array([1]), "x": np.array([[0, 9, 0]], np.float32)})

    code, output, errors = predict(token_server, rows, model=TABLE)

    assert (code, output.splitlines()[1].startswith("0    1  ")) == (0, True)
    assert errors == f"{rows}: not sent, the model has no such input: y\n"


def test_predict_takes_images_from_an_npz_file(live_server: LiveServer, rows: Path) -> None:
    write(rows, {"image": np.stack([EASY, HARD])})

    code, output, errors = predict(live_server, rows)

    assert (code, output.count("\n"), errors) == (0, 3, "")


@pytest.mark.parametrize(
    ("model", "arrays", "complaint"),
    [
        (
            BOOL_MASKED,
            {"token_ids": ROWS_OF_TOKENS["token_ids"], "mask": ROWS_OF_TOKENS["attention_mask"]},
            "expected an array for each input, token_ids, attention_mask, got token_ids, mask",
        ),
        (
            BOOL_MASKED,
            {"token_ids": ROWS_OF_TOKENS["token_ids"]},
            "expected an array for each input, token_ids, attention_mask, got token_ids",
        ),
        (TABLE, {}, "expected an array for each input, columns, got none"),
        (TABLE, {"columns": np.array([{}], dtype=object)}, "expected a whole .npz file, got: Object arrays"),
        (TABLE, {"columns": np.zeros((1, 3))}, 'input "columns": expected datatype FP32, got FP64'),
        (TABLE, {"columns": np.zeros((1, 3), np.float16)}, 'input "columns": expected a dtype of bool, '),
    ],
    ids=["another name", "missing", "empty", "pickled", "FP64", "float16"],
)
def test_predict_of_arrays_that_do_not_fit_is_one_line_and_exit_code_1(
    token_server: LiveServer,
    rows: Path,
    model: str,
    arrays: Mapping[str, NDArray[np.generic]],
    complaint: str,
) -> None:
    write(rows, arrays)

    code, output, errors = predict(token_server, rows, model=model)

    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert complaint in errors


def _write_nothing(file: Path) -> None:
    file.write_bytes(b"")


def _write_noise(file: Path) -> None:
    file.write_bytes(b"PK\x03\x04noise")


def _write_no_file(file: Path) -> None:
    file.unlink(missing_ok=True)


def _write_one_array(file: Path) -> None:
    with file.open("wb") as opened:
        np.save(opened, np.zeros(3))


def _write_text_members(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("columns", "1 2 3")


def _write_damaged(file: Path) -> None:
    write(file, {"columns": np.zeros((1, 3), np.float32)})
    file.write_bytes(file.read_bytes()[:-30])


@pytest.mark.parametrize(
    "write_file",
    [_write_nothing, _write_noise, _write_no_file, _write_one_array, _write_text_members, _write_damaged],
)
def test_predict_of_a_damaged_or_missing_archive_is_one_line_that_names_it(
    token_server: LiveServer, rows: Path, write_file: Callable[[Path], None]
) -> None:
    write_file(rows)

    code, output, errors = predict(token_server, rows, model=TABLE)

    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert str(rows) in errors


def test_images_are_refused_by_a_model_of_tokens(token_server: LiveServer, tmp_path: Path) -> None:
    images = tmp_path / "images.npy"
    np.save(images, np.stack([EASY]))

    code, output, errors = predict(token_server, images, model=NAME)

    assert (code, output) == (1, "")
    assert errors == (
        f'offramp: error: {images}: expected .npz with an array for each input: model "tokens": expected '
        "one input of UINT8 images, got token_ids INT64 [-1, 6], attention_mask INT64 [-1, 6]\n"
    )
