"""Models with several inputs, one of which every stage needs: answers do not depend on other rows."""

from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from serving.datatypes import DTYPES
from serving.engine.request import Answers
from serving.errors import StageFailed
from serving.repository.repository import PublishedVersion, read_version
from tests.serving import token_model
from tests.serving.conftest import Serve, Served
from tests.serving.engine.engine_calls import BALANCED, stage_labels
from tests.serving.held_worker import held_worker
from tests.serving.live_server import PATIENCE_SECONDS
from tests.serving.token_model import KNOWN_TOKENS, TOKENS, UNKNOWN, leaves, mask, token, token_ids

Tokens = NDArray[np.int64]
Mask = NDArray[np.generic]


@pytest.fixture(scope="module", params=["tokens", "tokens-bool-masked"])
def published(request: pytest.FixtureRequest, token_models: Path) -> PublishedVersion:
    return read_version(token_models / request.param / "1")


def submit(served: Served, tokens: Tokens, counts: Mask) -> "Future[Answers]":
    return served.engine.infer(served.version, {"token_ids": tokens, "attention_mask": counts}, BALANCED)


def as_carried(published: PublishedVersion, mask_BT: Mask) -> Mask:
    """Cast a mask to the datatype of the version's input."""
    datatype = published.manifest.inputs[1].datatype
    return mask_BT.astype(DTYPES[datatype])


def held(served: Served, published: PublishedVersion) -> dict[str, NDArray[np.generic]]:
    return {"token_ids": token_ids([token(0, 0)]), "attention_mask": as_carried(published, mask([0]))}


ROWS = st.lists(
    st.tuples(
        st.lists(st.integers(0, KNOWN_TOKENS - 1), min_size=TOKENS, max_size=TOKENS),
        st.lists(st.integers(0, 1), min_size=TOKENS, max_size=TOKENS),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.lists(ROWS, min_size=1, max_size=8), max_batch_size=st.sampled_from([8, 16]))
def test_every_row_gets_the_answer_of_its_own_tokens_and_mask(
    serve: Serve,
    published: PublishedVersion,
    requests: list[list[tuple[list[int], list[int]]]],
    max_batch_size: int,
) -> None:
    served = serve(published=published, max_batch_size=max_batch_size)
    arrays = [
        (np.array([tokens for tokens, _ in rows]), as_carried(published, np.array([m for _, m in rows])))
        for rows in requests
    ]
    with held_worker(served.engine, served.version, held(served, published)):
        futures = [submit(served, *each) for each in arrays]

    for (tokens, counts), future in zip(arrays, futures, strict=True):
        answers = future.result(PATIENCE_SECONDS)
        expected = leaves(token_model.logits(tokens, counts), 0.9)
        assert (answers.label_R.tolist(), answers.exit_R.tolist()) == expected
    served.close()


def test_survivors_of_different_requests_run_together_with_their_own_masks(
    serve: Serve, published: PublishedVersion, registry: CollectorRegistry
) -> None:
    served = serve(published=published, max_batch_size=8)
    tokens = token_ids([token(0, 0)], [token(1, 1), token(2, 1)], [token(1, 1), token(2, 1)])
    masks = [mask([0], [0], [1]), mask([0], [1], [0])]
    with held_worker(served.engine, served.version, held(served, published)):
        futures = [submit(served, tokens, as_carried(published, each)) for each in masks]

    labels = [future.result(PATIENCE_SECONDS).label_R.tolist() for future in futures]
    assert labels == [[0, 1, 2], [0, 2, 1]]
    ran = [
        registry.get_sample_value(f"offramp_batch_rows_{what}", stage_labels(1)) for what in ("count", "sum")
    ]
    assert ran == [1, 4]


def test_a_row_on_which_a_stage_raises_fails_only_its_request(
    serve: Serve, published: PublishedVersion
) -> None:
    served = serve(published=published, max_batch_size=8)
    tokens = token_ids([token(2, 2)])
    with held_worker(served.engine, served.version, held(served, published)):
        answered = submit(served, tokens, as_carried(published, mask([0])))
        failed = submit(served, token_ids([UNKNOWN]), as_carried(published, mask([0])))

    assert isinstance(failed.exception(PATIENCE_SECONDS), StageFailed)
    assert answered.result(PATIENCE_SECONDS).label_R.tolist() == [2]
