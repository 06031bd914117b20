"""The unmodified tritonclient works with the server, synchronously and with asyncio."""

import asyncio
import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from tests.serving.held_worker import held_worker
from tests.serving.live_server import LiveServer, eventually
from tests.serving.scripted_model import EASY, HARD, MIDDLE, row


@pytest.fixture
def client(live_server: LiveServer) -> Iterator[Any]:
    with triton.InferenceServerClient(live_server.address) as client:
        yield client


def image(*rows: NDArray[np.uint8]) -> Any:  # noqa: ANN401 - tritonclient has no types
    pixels = np.stack(rows)
    tensor = triton.InferInput("image", pixels.shape, "UINT8")
    tensor.set_data_from_numpy(pixels)
    return tensor


def test_an_image_is_answered_with_every_output(client: Any) -> None:  # noqa: ANN401
    result = client.infer("scripted", [image(EASY, MIDDLE, HARD)], request_id="7")

    assert result.as_numpy("label").tolist() == [0, 1, 2]
    assert result.as_numpy("exit").tolist() == [0, 1, 2]
    assert result.as_numpy("exit_reason").tolist() == [0, 0, 1]
    assert result.as_numpy("confidence").dtype == np.float32
    assert result.as_numpy("probabilities").sum(axis=1) == pytest.approx([1, 1, 1])
    assert result.get_response().id == "7"


def test_only_requested_outputs_are_sent(client: Any) -> None:  # noqa: ANN401
    result = client.infer("scripted", [image(EASY)], outputs=[triton.InferRequestedOutput("label")])

    assert [output.name for output in result.get_response().outputs] == ["label"]


@pytest.mark.parametrize(
    ("parameters", "exit_number"),
    [
        ({"operating_point": "exact"}, 2),
        ({"threshold": "0.4"}, 0),
        ({"threshold": 0}, 0),
        ({"max_exit": 1, "operating_point": "exact"}, 1),
        ({"client": "of others"}, 1),
    ],
    ids=str,
)
def test_parameters_are_options(client: Any, parameters: dict[str, object], exit_number: int) -> None:  # noqa: ANN401
    result = client.infer("scripted", [image(MIDDLE)], parameters=parameters)

    assert result.as_numpy("exit").tolist() == [exit_number]


def test_priority_and_timeout_are_ignored(client: Any) -> None:  # noqa: ANN401
    result = client.infer("scripted", [image(EASY)], priority=1, timeout=1_000_000, sequence_id=5)

    assert result.as_numpy("label").tolist() == [0]


def test_an_error_carries_status_and_text(client: Any) -> None:  # noqa: ANN401
    with pytest.raises(InferenceServerException) as error:
        client.infer("other", [image(EASY)])

    assert error.value.status() == "StatusCode.NOT_FOUND"
    assert error.value.message() == "Request for unknown model: 'other' is not found; served: scripted"


def test_all_descriptions_of_the_client_are_answered(client: Any) -> None:  # noqa: ANN401
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("scripted")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata().name == "offramp"
    assert client.get_model_metadata("scripted", as_json=True)["inputs"][0]["shape"] == ["-1", "1", "2", "3"]
    assert client.get_model_config("scripted").config.max_batch_size == 64
    assert client.get_inference_statistics("scripted").model_stats[0].name == "scripted"
    assert client.get_model_repository_index().models[0].state == "READY"


def test_the_configuration_has_the_fields_that_load_generators_read(client: Any) -> None:  # noqa: ANN401
    config = client.get_model_config("scripted").config
    metadata = client.get_model_metadata("scripted")

    assert {tensor.name for tensor in config.input} <= {tensor.name for tensor in metadata.inputs}
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert not config.model_transaction_policy.decoupled


@pytest.mark.parametrize("call", ["load_model", "unload_model"])
def test_loading_is_unimplemented(client: Any, call: str) -> None:  # noqa: ANN401
    with pytest.raises(InferenceServerException, match="is not offered by this server"):
        getattr(client, call)("scripted")


def test_an_asynchronous_callback_gets_its_answer(client: Any) -> None:  # noqa: ANN401
    answers: queue.Queue[Any] = queue.Queue()

    client.async_infer("scripted", [image(HARD)], callback=lambda result, error: answers.put((result, error)))

    result, error = answers.get(timeout=20)
    assert error is None
    assert result.as_numpy("label").tolist() == [2]


def test_a_stream_answers_each_request_and_continues_after_an_error(client: Any) -> None:  # noqa: ANN401
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))

    client.async_stream_infer("scripted", [image(HARD)], request_id="hard")
    client.async_stream_infer("nobody", [image(HARD)], request_id="unknown")
    client.async_stream_infer("scripted", [image(EASY)], request_id="easy")
    first, second, third = [answers.get(timeout=20) for _ in range(3)]
    client.stop_stream()

    assert (first[1], third[1]) == (None, None)
    assert first[0].as_numpy("label").tolist() == [2]
    assert third[0].as_numpy("label").tolist() == [0]
    assert "'nobody' is not found" in str(second[1])


@pytest.mark.asyncio
async def test_concurrent_asyncio_calls_get_their_own_answers(live_server: LiveServer) -> None:
    async with triton_aio.InferenceServerClient(live_server.address) as client:
        results = await asyncio.gather(
            *(client.infer("scripted", [image(row(n % 3, 0.5, 5, 5))]) for n in range(60))
        )

    assert [result.as_numpy("label").item() for result in results] == [n % 3 for n in range(60)]


@pytest.mark.asyncio
async def test_a_cancelled_asyncio_call_leaves_nothing(own_server: LiveServer) -> None:
    version = own_server.version()
    async with triton_aio.InferenceServerClient(own_server.address) as client:
        with held_worker(own_server.engine, version):
            call = asyncio.create_task(client.infer("scripted", [image(HARD)]))
            while version.rows_held == 1:
                await asyncio.sleep(0.005)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            cancelled = {"outcome": "cancelled", "model": "scripted"}
            while own_server.metric("offramp_requests_total", **cancelled) == 0:
                await asyncio.sleep(0.005)

    assert eventually(lambda: version.rows_held == 0)


@pytest.mark.asyncio
async def test_a_clients_timeout_is_a_deadline(own_server: LiveServer) -> None:
    async with triton_aio.InferenceServerClient(own_server.address) as client:
        with (
            held_worker(own_server.engine, own_server.version()),
            pytest.raises(InferenceServerException) as error,
        ):
            await client.infer("scripted", [image(HARD)], client_timeout=0.05)

    assert error.value.status() == "StatusCode.DEADLINE_EXCEEDED"
