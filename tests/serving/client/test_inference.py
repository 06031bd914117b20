"""The typed client and its command line against a real server."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from serving.client import Client, InputInfo, ModelInfo
from serving.datatypes import DTYPES
from serving.errors import (
    DeadlineExpired,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    OfframpError,
    Overloaded,
    StageFailed,
)
from serving.exits.options import RequestOptions, exit_rule
from serving.exits.policy import ExitReason
from tests.serving import scripted_model
from tests.serving.client.client_commands import command, predict
from tests.serving.held_worker import held_worker
from tests.serving.live_server import LiveServer, eventually
from tests.serving.scripted_model import EASY, HARD, MIDDLE, RAISES, confidence, row
from tests.serving.token_model import BOOL_MASKED, NAME, ROWS_OF_TOKENS, TABLE


@pytest.fixture
def client(live_server: LiveServer) -> Iterator[Client]:
    with Client(live_server.address) as client:
        yield client


def test_a_prediction_has_an_entry_for_each_row(client: Client) -> None:
    prediction = client.predict("scripted", np.stack([EASY, MIDDLE, HARD]))

    assert prediction.model_version == "1"
    assert prediction.label_N.tolist() == [0, 1, 2]
    assert prediction.exit_N.tolist() == [0, 1, 2]
    assert [ExitReason(reason).name.lower() for reason in prediction.exit_reason_N] == [
        "confident",
        "confident",
        "final",
    ]
    assert prediction.confidence_N == pytest.approx([confidence(5), confidence(5), confidence(0.5)], abs=1e-6)
    assert prediction.probabilities_NK.shape == (3, 3)


def test_an_operating_point_is_passed_on(client: Client) -> None:
    assert client.predict("scripted", EASY[None], operating_point="exact").exit_N.tolist() == [2]


def test_a_threshold_is_passed_on(client: Client) -> None:
    assert client.predict("scripted", HARD[None], threshold=0.0).exit_N.tolist() == [0]


def test_a_max_exit_is_passed_on(client: Client) -> None:
    assert client.predict("scripted", HARD[None], max_exit=1).exit_reason_N.tolist() == [ExitReason.CAPPED]


def test_a_version_is_passed_on(client: Client) -> None:
    with pytest.raises(ModelNotFound):
        client.predict("scripted", EASY[None], version="9")


def test_a_reversed_view_of_an_array_is_sent_in_its_own_order(client: Client) -> None:
    rows = np.stack([EASY, MIDDLE, HARD])[::-1]

    assert client.predict("scripted", rows).label_N.tolist() == [2, 1, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
def test_pixels_of_another_type_are_refused_not_cast(client: Client, dtype: type[np.generic]) -> None:
    with pytest.raises(InvalidRequest, match=f"expected uint8 pixels, got {np.dtype(dtype)}"):
        client.predict("scripted", EASY[None].astype(dtype))


@pytest.fixture
def token_client(token_server: LiveServer) -> Iterator[Client]:
    with Client(token_server.address) as client:
        yield client


def test_every_input_is_sent_by_name_in_the_datatype_of_its_array(token_client: Client) -> None:
    prediction = token_client.infer(BOOL_MASKED, ROWS_OF_TOKENS)

    assert prediction.label_N.tolist() == [1, 0]
    assert prediction.exit_N.tolist() == [0, 1]


def test_options_are_passed_on_with_rows_of_tokens(token_client: Client) -> None:
    prediction = token_client.infer(
        BOOL_MASKED, ROWS_OF_TOKENS, operating_point="exact", max_exit=1, synthetic=True
    )

    assert prediction.exit_reason_N.tolist() == [ExitReason.CAPPED] * 2


@pytest.mark.parametrize("order", ["<", ">"])
def test_an_array_of_either_byte_order_is_sent_with_its_values(token_client: Client, order: str) -> None:
    columns = np.array([[0, 9, 0], [0, 0, 9]], dtype=f"{order}f4")

    assert token_client.infer(TABLE, {"columns": columns}).label_N.tolist() == [1, 2]


@pytest.mark.parametrize("datatype", DTYPES)
def test_an_array_of_another_known_dtype_is_refused_by_the_server_not_cast(
    token_client: Client, datatype: str
) -> None:
    columns = np.zeros((1, 3), dtype=DTYPES[datatype])
    if datatype == "FP32":
        assert token_client.infer(TABLE, {"columns": columns}).label_N.tolist() == [0]
        return

    with pytest.raises(InvalidRequest, match=f'input "columns": expected datatype FP32, got {datatype}$'):
        token_client.infer(TABLE, {"columns": columns})


@pytest.mark.parametrize("dtype", ["float16", "uint32", "int8", "<U3", "object", "datetime64[s]"])
def test_an_array_without_a_datatype_on_the_wire_is_refused_with_the_known_dtypes(
    token_client: Client, dtype: str
) -> None:
    with pytest.raises(InvalidRequest) as error:
        token_client.infer(TABLE, {"columns": np.zeros((1, 3), dtype=dtype)})

    assert str(error.value) == (
        'input "columns": expected a dtype of bool, uint8, int32, int64, float32, float64, '
        f"got {np.dtype(dtype)}"
    )


def test_a_missing_input_is_refused_by_name(token_client: Client) -> None:
    with pytest.raises(InvalidRequest, match='input "attention_mask": missing, got inputs'):
        token_client.infer(BOOL_MASKED, {"token_ids": ROWS_OF_TOKENS["token_ids"]})


def test_a_model_description_has_its_inputs(token_client: Client) -> None:
    assert token_client.model(BOOL_MASKED).inputs == (
        InputInfo("token_ids", "INT64", (6,)),
        InputInfo("attention_mask", "BOOL", (6,)),
    )


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (NAME, r"token_ids INT64 \[-1, 6\], attention_mask INT64 \[-1, 6\]"),
        (TABLE, r"columns FP32 \[-1, 3\]"),
    ],
)
def test_a_model_without_images_has_no_image_shape(token_client: Client, model: str, inputs: str) -> None:
    with pytest.raises(
        InvalidRequest, match=f'model "{model}": expected one input of UINT8 images, got {inputs}$'
    ):
        _ = token_client.model(model).row_shape


def test_a_model_with_an_image_and_another_input_has_no_image_shape() -> None:
    inputs = (InputInfo("image", "UINT8", (1, 2, 3)), InputInfo("age", "FP32", ()))
    info = ModelInfo("two", 1, inputs, ("no", "yes"), "cpu", "exact", {})

    with pytest.raises(InvalidRequest, match=r"got image UINT8 \[-1, 1, 2, 3\], age FP32 \[-1\]$"):
        _ = info.row_shape


def test_a_version_without_labels_has_no_accuracies(token_client: Client) -> None:
    points = token_client.model(NAME).operating_points

    assert [point["accuracy"] for point in points.values()] == [None] * 3


def test_a_model_description_has_inputs_labels_and_operating_points(client: Client) -> None:
    info = client.model("scripted")

    assert (info.name, info.max_batch_size, info.row_shape) == ("scripted", 64, (1, 2, 3))
    assert info.inputs == (InputInfo("image", "UINT8", (1, 2, 3)),)
    assert (info.labels, info.device, info.default_operating_point) == (
        ("ant", "bee", "cat"),
        "cpu",
        "balanced",
    )
    assert info.operating_points["fast"]["thresholds"] == [0.5, 0.5]
    assert info.operating_points["exact"]["certificate"] is None


def test_a_serving_server_is_healthy(client: Client) -> None:
    assert client.healthy()


@pytest.mark.parametrize(
    ("images", "options", "error"),
    [
        (EASY, {}, InvalidRequest),
        (EASY[None], {"threshold": 1.5}, InvalidRequest),
        (EASY[None], {"threshold": float("nan")}, InvalidRequest),
        (EASY[None], {"max_exit": 3}, InvalidRequest),
        (EASY[None], {"operating_point": "slow"}, InvalidRequest),
        (EASY[None], {"operating_point": "fast", "threshold": 0.5}, InvalidRequest),
        (row(1, 0.5, 5, 5, fates=(RAISES, 0))[None], {}, StageFailed),
    ],
)
def test_a_refusal_of_the_server_raises_its_error(
    client: Client, images: NDArray[np.uint8], options: dict[str, object], error: type[OfframpError]
) -> None:
    with pytest.raises(error):
        client.predict("scripted", images, **options)  # type: ignore[arg-type] # options of every kind


def test_an_unknown_model_raises_an_error_with_the_servers_address_and_message(
    client: Client, live_server: LiveServer
) -> None:
    with pytest.raises(ModelNotFound) as error:
        client.predict("other", EASY[None])

    assert str(error.value) == (
        f"{live_server.address}: Request for unknown model: 'other' is not found; served: scripted"
    )


def test_a_timeout_raises_deadline_expired(own_server: LiveServer) -> None:
    with (
        Client(own_server.address) as client,
        held_worker(own_server.engine, own_server.version()),
        pytest.raises(DeadlineExpired),
    ):
        client.predict("scripted", HARD[None], timeout_seconds=0.05)


def test_a_full_queue_raises_overloaded(own_server: LiveServer) -> None:
    version, waiting = own_server.version(), np.stack([HARD] * 4)
    rule = exit_rule(version.points, RequestOptions(operating_point="exact"))
    with Client(own_server.address) as client, held_worker(own_server.engine, version):
        for _ in range(2):
            own_server.engine.infer(version, {"image": waiting}, rule)
        with pytest.raises(Overloaded):
            client.predict("scripted", waiting)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_missing_server_raises_model_not_ready() -> None:
    with Client(f"127.0.0.1:{free_port()}") as client, pytest.raises(ModelNotReady):
        client.healthy()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tmp_path / "images.npy"


def test_predict_prints_a_table_with_a_line_for_each_row(live_server: LiveServer, images: Path) -> None:
    np.save(images, np.stack([EASY, HARD]))

    assert predict(live_server, images) == (
        0,
        "row  label  confidence  exit    reason\n"
        "0    ant    0.9867      0 of 2  confident\n"
        "1    cat    0.4519      2 of 2  final\n",
        "",
    )


def test_predict_prints_a_json_object_for_each_row(live_server: LiveServer, images: Path) -> None:
    np.save(images, np.stack([EASY, HARD]))

    code, output, _ = predict(live_server, images, "--json")

    easy, hard = map(json.loads, output.splitlines())
    assert (code, set(easy)) == (0, {"row", "label", "name", "confidence", "exit", "exit_reason"})
    assert (hard["row"], hard["label"], hard["name"], hard["exit"], hard["exit_reason"]) == (
        1,
        2,
        "cat",
        2,
        "final",
    )
    assert easy["confidence"] == pytest.approx(confidence(5), abs=1e-6)


def test_predict_takes_options(live_server: LiveServer, images: Path) -> None:
    np.save(images, EASY)

    code, output, _ = predict(live_server, images, "--operating-point", "exact", "--max-exit", "1")

    assert (code, output.endswith("1 of 2  capped\n")) == (0, True)


def test_predict_takes_a_version(tmp_path: Path, images: Path) -> None:
    np.save(images, EASY)
    for version in (1, 2):
        scripted_model.publish(tmp_path / "models", version=version)
    with LiveServer(tmp_path / "models", {"models": {"scripted": {"versions": [1]}}}) as server:
        assert predict(server, images, "--version", "1")[0] == 0
        assert eventually(lambda: server.metric("offramp_requests_total", outcome="ok", version="1") == 1)


def test_predict_of_a_version_that_is_not_served_lists_the_served_ones(
    live_server: LiveServer, images: Path
) -> None:
    np.save(images, EASY)

    code, output, errors = predict(live_server, images, "--version", "9")

    assert (code, output) == (1, "")
    assert errors.endswith("unknown model: 'scripted' version 9 is not found, served: [1]\n")


def test_predict_of_an_unknown_model_lists_the_served_ones(live_server: LiveServer, images: Path) -> None:
    np.save(images, EASY)

    code, output, errors = predict(live_server, images, model="other")

    assert (code, output) == (1, "")
    assert errors.endswith("Request for unknown model: 'other' is not found; served: scripted\n")


def test_predict_takes_grey_images_without_their_channel(live_server: LiveServer, images: Path) -> None:
    np.save(images, np.stack([EASY, HARD])[:, 0])

    code, output, _ = predict(live_server, images)

    assert (code, output.count("\n")) == (0, 3)


def test_predict_takes_a_picture(live_server: LiveServer, tmp_path: Path) -> None:
    Image.fromarray(MIDDLE[0], mode="L").save(tmp_path / "bee.png")

    code, output, _ = predict(live_server, tmp_path / "bee.png")

    assert (code, output.splitlines()[1].startswith("0    bee  ")) == (0, True)


def _write_floats(file: Path) -> None:
    np.save(file, EASY[None] / 255)


def _write_other_shape(file: Path) -> None:
    np.save(file, np.zeros((1, 1, 3, 2), dtype=np.uint8))


def _write_scalar(file: Path) -> None:
    np.save(file, np.uint8(1))


def _write_no_rows(file: Path) -> None:
    np.save(file, np.zeros((0, 1, 2, 3), dtype=np.uint8))


def _write_objects(file: Path) -> None:
    np.save(file, np.array([{"a": 1}], dtype=object))


def _write_nothing(file: Path) -> None:
    file.write_bytes(b"")


def _write_archive(file: Path) -> None:
    with file.open("wb") as archive:
        np.savez(archive, a=EASY)


def _write_noise(file: Path) -> None:
    file.write_bytes(b"\x93NUMPY\x01\x00noise")


def _write_no_file(file: Path) -> None:
    file.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (_write_floats, "expected uint8 pixels, got float64"),
        (_write_other_shape, "expected images of shape [1, 2, 3], got [1, 1, 3, 2]"),
        (_write_scalar, "expected images of shape [1, 2, 3], got []"),
        (_write_no_rows, "expected 1 to 64 rows, got 0"),
        (_write_objects, ""),
        (_write_nothing, "empty"),
        (_write_archive, "expected one array"),
        (_write_noise, ""),
        (_write_no_file, "No such file"),
    ],
)
def test_predict_of_a_wrong_file_is_one_line_and_exit_code_1(
    live_server: LiveServer, images: Path, write: Callable[[Path], None], complaint: str
) -> None:
    write(images)

    code, output, errors = predict(live_server, images)

    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("offramp: error: ")
    assert complaint in errors


def test_predict_of_a_damaged_picture_is_one_line(live_server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "noise.png").write_bytes(b"noise")

    code, _, errors = predict(live_server, tmp_path / "noise.png")

    assert (code, errors.count("\n")) == (1, 1)
    assert "noise.png" in errors


def test_health_of_a_serving_server_is_exit_code_0(live_server: LiveServer) -> None:
    assert command("health", "--address", live_server.address) == (0, "serving\n", "")


def test_health_of_no_server_is_exit_code_1_and_one_line() -> None:
    code, output, errors = command("health", "--address", f"127.0.0.1:{free_port()}")

    assert (code, output, errors.count("\n")) == (1, "", 1)


def test_the_client_imports_nothing_of_the_server() -> None:
    code = (
        "import sys, serving.client; heavy = {'onnxruntime', 'pydantic', 'torch', 'prometheus_client', "
        "'structlog', 'onnx', 'PIL'}; print(sorted(heavy & set(sys.modules)))"
    )

    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert (finished.stdout, finished.stderr) == ("[]\n", "")
