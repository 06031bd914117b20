"""Models with several inputs of any datatype, on both front ends."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from numpy.typing import NDArray

from serving.api.tensors import CONTENTS_FIELDS, decode_outputs
from serving.api.wire import inference
from serving.datatypes import DTYPES
from serving.monitor.point_watch import PointWatch
from tests.serving import token_model
from tests.serving.api.inference_calls import Request, infer, refused, stream, with_id
from tests.serving.held_worker import held_worker
from tests.serving.live_server import LiveServer, eventually
from tests.serving.token_model import (
    BOOL_MASKED,
    COLUMNS,
    KNOWN_TOKENS,
    NAME,
    TABLE,
    TOKENS,
    UNKNOWN,
    leaves,
    mask,
    token,
    token_ids,
)

Arrays = dict[str, NDArray[np.generic]]

DATATYPES = {known: name for name, known in DTYPES.items()}


def request(model: str, arrays: Arrays, *, typed: bool = False, **parameters: Any) -> Request:  # noqa: ANN401
    """Return a request with raw or typed contents."""
    message = Request(model_name=model)
    for name, array in arrays.items():
        datatype = DATATYPES[array.dtype]
        tensor = message.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if typed:
            getattr(tensor.contents, CONTENTS_FIELDS[datatype]).extend(array.ravel().tolist())
        else:
            message.raw_input_contents.append(array.tobytes())
    for key, value in parameters.items():
        message.parameters[key].CopyFrom(inference.InferParameter(**value))
    return message


def tokens_of(model: str, token_ids_BT: NDArray[np.int64], mask_BT: NDArray[np.generic]) -> Arrays:
    """Return the inputs of a token model by name, with the mask in the model's datatype."""
    datatype = "BOOL" if model == BOOL_MASKED else "INT64"
    return {"token_ids": token_ids_BT, "attention_mask": mask_BT.astype(DTYPES[datatype])}


def random_rows(rows: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    return random.integers(0, KNOWN_TOKENS, (rows, TOKENS)), random.integers(0, 2, (rows, TOKENS))


EASY = token_ids([token(1, 0)]), mask([0])
LATER = token_ids([token(1, 0), token(2, 1), token(2, 2)]), mask([1, 2])
"""Leaves at exit 1 with label 2, because its first token is masked."""


@pytest.mark.parametrize("typed", [False, True], ids=["raw", "typed"])
@pytest.mark.parametrize("model", [NAME, BOOL_MASKED])
def test_each_answer_depends_on_the_rows_own_tokens_and_mask(
    token_server: LiveServer, model: str, *, typed: bool
) -> None:
    tokens, counts = random_rows(64)

    answer = infer(token_server, request(model, tokens_of(model, tokens, counts), typed=typed))

    assert (answer["label"], answer["exit"]) == leaves(token_model.logits(tokens, counts), 0.9)


@pytest.mark.parametrize("typed", [False, True], ids=["raw", "typed"])
def test_a_table_of_floats_is_answered_row_by_row(token_server: LiveServer, *, typed: bool) -> None:
    columns = np.random.default_rng(0).normal(0, 2, (64, COLUMNS)).astype(np.float32)

    answer = infer(token_server, request(TABLE, {"columns": columns}, typed=typed))

    assert (answer["label"], answer["exit"]) == leaves(token_model.table_logits(columns), 0.9)
    assert set(answer["exit"]) == {0, 1, 2}


def test_inputs_are_identified_by_name_not_by_order(token_server: LiveServer) -> None:
    arrays = tokens_of(NAME, *LATER)

    answers = [
        infer(token_server, request(NAME, dict(order))) for order in (arrays.items(), [*arrays.items()][::-1])
    ]

    assert [(answer["label"], answer["exit"]) for answer in answers] == [([2], [1])] * 2


def test_a_repeated_message_gets_the_same_answer(token_server: LiveServer) -> None:
    columns = np.array([[0.25, 0.5, -0.5]], np.float32)

    answers = [infer(token_server, request(TABLE, {"columns": columns}))["probabilities"] for _ in range(3)]

    powers = np.exp(token_model.table_logits(columns)[-1])
    np.testing.assert_allclose(answers, [powers / powers.sum()] * 3, rtol=1e-5)


def test_options_apply(token_server: LiveServer) -> None:
    message = request(NAME, tokens_of(NAME, *EASY), operating_point={"string_param": "exact"})

    assert infer(token_server, message)["exit"] == [2]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attention_mask": None}, "input \"attention_mask\": missing, got inputs ['token_ids']"),
        ({"attention_mask": mask([0], [0])}, "inputs: expected the same number of rows in each, got "),
        (
            {"attention_mask": mask([0], datatype="BOOL")},
            'input "attention_mask": expected datatype INT64, got BOOL',
        ),
        ({"image": mask([0])}, "input \"image\": expected one of ['token_ids', 'attention_mask']"),
    ],
    ids=["missing", "rows", "datatype", "unknown"],
)
def test_inputs_that_do_not_fit_are_refused_by_name(
    token_server: LiveServer, changes: dict[str, NDArray[np.generic] | None], said: str
) -> None:
    arrays = tokens_of(NAME, *EASY) | changes
    given = {name: array for name, array in arrays.items() if array is not None}

    code, details = refused(token_server, request(NAME, given))

    assert (code, details.startswith(said)) == ("INVALID_ARGUMENT", True)


def test_a_token_that_the_model_does_not_know_fails_its_own_request(token_server: LiveServer) -> None:
    code, _ = refused(token_server, request(NAME, tokens_of(NAME, token_ids([UNKNOWN]), mask([0]))))

    assert code == "INTERNAL"
    assert infer(token_server, request(NAME, tokens_of(NAME, *EASY)))["label"] == [1]


def test_a_stream_answers_each_request_and_an_error_does_not_end_it(token_server: LiveServer) -> None:
    missing = request(NAME, {"token_ids": EASY[0]})

    answers = stream(
        token_server,
        with_id("tokens", request(NAME, tokens_of(NAME, *LATER))),
        with_id("missing", missing),
        with_id("typed", request(BOOL_MASKED, tokens_of(BOOL_MASKED, *EASY), typed=True)),
        with_id("table", request(TABLE, {"columns": np.array([[0, 0, 9]], np.float32)})),
    )

    assert [answer.infer_response.id for answer in answers] == ["tokens", "missing", "typed", "table"]
    assert [bool(answer.error_message) for answer in answers] == [False, True, False, False]
    labels = [
        decode_outputs(answer.infer_response)["label"].tolist()
        for answer in answers
        if not answer.error_message
    ]
    assert labels == [[2], [1], [2]]


def test_concurrent_calls_get_their_own_answers(token_server: LiveServer) -> None:
    def ask(seed: int) -> bool:
        tokens, counts = random_rows(1 + seed % 5, seed)
        answer = infer(token_server, request(NAME, tokens_of(NAME, tokens, counts)))
        return (answer["label"], answer["exit"]) == leaves(token_model.logits(tokens, counts), 0.9)

    with ThreadPoolExecutor(16) as callers:
        assert all(callers.map(ask, range(100)))


def test_metadata_and_configuration_have_each_inputs_datatype_and_shape(token_server: LiveServer) -> None:
    inputs = {
        model: (
            [
                (each.name, each.datatype, list(each.shape))
                for each in token_server.call("ModelMetadata", name=model).inputs
            ],
            [
                (each.name, inference.DataType.Name(each.data_type), list(each.dims))
                for each in token_server.call("ModelConfig", name=model).config.input
            ],
        )
        for model in (BOOL_MASKED, TABLE)
    }

    assert inputs == {
        BOOL_MASKED: (
            [("token_ids", "INT64", [-1, 6]), ("attention_mask", "BOOL", [-1, 6])],
            [("token_ids", "TYPE_INT64", [6]), ("attention_mask", "TYPE_BOOL", [6])],
        ),
        TABLE: ([("columns", "FP32", [-1, 3])], [("columns", "TYPE_FP32", [3])]),
    }


def test_the_configuration_of_a_version_without_labels_has_null_accuracies(token_server: LiveServer) -> None:
    parameters = token_server.call("ModelConfig", name=NAME).config.parameters

    points = json.loads(parameters["operating_points"].string_value)

    assert json.loads(parameters["labels"].string_value) == ["0", "1", "2"]
    assert {name: point["accuracy"] for name, point in points.items()} == {
        "exact": None,
        "balanced": None,
        "fast": None,
    }


def test_tritonclient_sends_every_input(token_server: LiveServer) -> None:
    inputs = []
    for name, array in tokens_of(BOOL_MASKED, *LATER).items():
        tensor = triton.InferInput(name, array.shape, DATATYPES[array.dtype])
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)

    with triton.InferenceServerClient(token_server.address) as client:
        result = client.infer(BOOL_MASKED, inputs)

    assert (result.as_numpy("label").tolist(), result.as_numpy("exit").tolist()) == ([2], [1])


def test_verify_accepts_versions_with_several_inputs(token_models: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "serving", "verify", str(token_models)], capture_output=True, text=True
    )

    assert (finished.returncode, finished.stdout) == (
        0,
        "ok table/1: 3 stages\nok tokens/1: 3 stages\nok tokens-bool-masked/1: 3 stages\n",
    )


@pytest.fixture
def watched_server(token_models: Path, front_end: str) -> Iterator[LiveServer]:
    """A server with one permit that samples every row."""
    config = {"monitor": {"shadow_share": 1, "drift_rows": 500}}
    with LiveServer(token_models, config, front_end=front_end) as server:
        yield server


def test_requests_that_wait_together_run_in_one_batch_and_statistics_count_them(
    watched_server: LiveServer,
) -> None:
    version = watched_server.version(NAME)
    with ThreadPoolExecutor(4) as callers:
        with held_worker(watched_server.engine, version, tokens_of(NAME, *EASY)):
            message = [
                callers.submit(infer, watched_server, request(NAME, tokens_of(NAME, tokens, counts)))
                for tokens, counts in (EASY, LATER, EASY, LATER)
            ]
            assert eventually(lambda: version.rows_held == 5)
        answers = [each.result(20) for each in message]

    assert [(answer["label"], answer["exit"]) for answer in answers] == [([1], [0]), ([2], [1])] * 2
    counted = {"model": NAME, "outcome": "ok"}
    assert eventually(lambda: watched_server.metric("offramp_requests_total", **counted) == 5)
    (entry,) = watched_server.call("ModelStatistics", name=NAME).model_stats
    assert (entry.inference_count, entry.execution_count) == (5, 2)
    assert entry.inference_stats.success.count == 5


def watch_of(server: LiveServer) -> PointWatch:
    states = server.version(NAME).point_states()
    watch = next(state.watch for state in states if state.name == "balanced")
    assert watch is not None
    return watch


DISAGREES = [token(0, 0), token(1, 2), token(1, 2)]
"""Leaves at exit 0 with label 0. Two of its tokens give label 1 at the final exit."""


def test_sampled_rows_are_compared_at_full_depth_under_their_own_masks(watched_server: LiveServer) -> None:
    tokens = token_ids(DISAGREES, DISAGREES, [token(2, 2)])
    counts = mask([0, 1, 2], [0], [0])

    answer = infer(watched_server, request(NAME, tokens_of(NAME, tokens, counts)))

    assert (answer["label"], answer["exit"]) == ([0, 0, 2], [0, 0, 2])
    watch = watch_of(watched_server)
    assert eventually(lambda: watch.agreed + watch.differed == 3)
    assert (watch.agreed, watch.differed, watch.missing) == (2, 1, 0)


def test_rows_that_differ_only_in_their_second_input_are_different_rows(watched_server: LiveServer) -> None:
    positions = [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 4], [0, 1, 2, 3, 4]]  # positions from 3 on have no token
    counts = mask(*positions, *positions)
    tokens = token_ids(*[DISAGREES] * len(counts))

    infer(watched_server, request(NAME, tokens_of(NAME, tokens, counts)))

    watch = watch_of(watched_server)
    assert eventually(lambda: watch.differed == len(counts))
    assert watch.test is not None
    assert watch.test.disagreements == len(positions)


def test_confidences_that_drift_from_the_manifests_raise_the_alarm(watched_server: LiveServer) -> None:
    no_tokens = token_ids([]), mask([])
    windows = {
        "as in the manifest": [*[EASY] * 32, *[no_tokens] * 32] * 8,  # half of them confident
        "drifted": [EASY] * 64 * 8,
    }
    alarms = {}
    for name, rows in windows.items():
        for start in range(0, len(rows), 64):
            tokens, counts = (np.concatenate(each) for each in zip(*rows[start : start + 64], strict=True))
            infer(watched_server, request(NAME, tokens_of(NAME, tokens, counts)))
        watched_server.engine.wait_idle()  # a batch is observed after its rows were answered
        alarms[name] = watched_server.metric("offramp_drift_alarm", model=NAME, signal="confidence")

    assert alarms == {"as in the manifest": 0, "drifted": 1}
