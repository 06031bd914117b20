"""One inference call from its message to its answer, with everything counted however it ends.

Counts a call exactly once, as one Outcome, in the metrics and the version's statistics.
"""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from serving.api.model_config import output_specs
from serving.api.tensors import decode_inputs, encode_outputs, requested_outputs
from serving.api.wire import inference
from serving.api.wishes import exit_wishes
from serving.engine.engine import NO_DEADLINE, Engine
from serving.engine.request import Answers
from serving.engine.rules import exit_rule
from serving.errors import (
    DeadlineExpired,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    Unsupported,
)
from serving.mailbox import Mailbox
from serving.metrics import Metrics, Outcome

_OUTCOMES: dict[type[BaseException], Outcome] = {
    InvalidRequest: Outcome.INVALID,
    Unsupported: Outcome.INVALID,
    ModelNotFound: Outcome.NOT_FOUND,
    ModelNotReady: Outcome.NOT_READY,
    Overloaded: Outcome.OVERLOADED,
    DeadlineExpired: Outcome.DEADLINE,
}


class InferenceCall:
    """A call in progress; a context manager, so that its end is counted whatever it is."""

    def __init__(
        self, request: inference.ModelInferRequest, metrics: Metrics, *, time_remaining: float | None
    ) -> None:
        self._request = request
        self._metrics = metrics
        self._started = time.monotonic()
        self._submitted = self._started
        self._deadline = NO_DEADLINE if time_remaining is None else self._started + time_remaining
        self._engine: Engine | None = None
        self._rows = 0

    def submit(self, find_engine: Callable[[], Engine], mailbox: Mailbox) -> "asyncio.Future[Answers]":
        """Decode the rows and put them into the engine, which answers by the mailbox.

        A version may be replaced between being found and being asked: then its successor is asked.
        """
        engine = find_engine()
        try:
            return self._submit_to(engine, mailbox)
        except ModelNotReady:
            successor = find_engine()
            if successor is engine:
                raise
            return self._submit_to(successor, mailbox)

    def _submit_to(self, engine: Engine, mailbox: Mailbox) -> "asyncio.Future[Answers]":
        self._engine = engine
        self._outputs = requested_outputs(self._request, output_specs(len(engine.manifest.labels)))
        inputs = decode_inputs(self._request, engine.manifest.inputs, engine.max_batch_size)
        self._rows = len(next(iter(inputs.values())))
        rule = exit_rule(engine.manifest, exit_wishes(self._request.parameters))
        self._submitted = time.monotonic()
        reply = mailbox.reply()
        engine.enter(inputs, rule, self._deadline, reply)
        return reply.future

    def respond(self, answers: Answers) -> inference.ModelInferResponse:
        """Encode the answers and count the call as answered."""
        assert self._engine is not None, "a call is answered only after it was submitted"
        answered = time.monotonic()
        manifest = self._engine.manifest
        response = inference.ModelInferResponse(
            model_name=manifest.name, model_version=str(manifest.version), id=self._request.id
        )
        encode_outputs(response, self._outputs, _arrays(answers))
        self._engine.accounts.statistics.count_success(
            self._rows,
            decode_seconds=self._submitted - self._started,
            queue_seconds=answers.queue_seconds,
            infer_seconds=answered - self._submitted - answers.queue_seconds,
            encode_seconds=time.monotonic() - answered,
        )
        return response

    def __enter__(self) -> Self:
        self._metrics.requests_in_flight.inc()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._metrics.requests_in_flight.dec()
        outcome = self._outcome(kind)
        seconds = time.monotonic() - self._started
        if self._engine is None:
            self._metrics.request_of_no_model(outcome)
            return
        if outcome is not Outcome.OK:
            self._engine.accounts.statistics.count_failure(seconds)
        self._engine.accounts.metrics.request_ended(outcome, self._rows, seconds)

    def _outcome(self, kind: type[BaseException] | None) -> Outcome:
        if kind is None:
            return Outcome.OK
        if issubclass(kind, asyncio.CancelledError):  # gRPC ends the handler so in both cases
            return Outcome.DEADLINE if time.monotonic() >= self._deadline else Outcome.CANCELLED
        return _OUTCOMES.get(kind, Outcome.FAILED)


def _arrays(answers: Answers) -> dict[str, NDArray[np.generic]]:
    return {
        "label": answers.label_R,
        "confidence": answers.confidence_R,
        "exit": answers.exit_R,
        "exit_reason": answers.exit_reason_R,
        "probabilities": answers.probabilities_RK,
    }
