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

from serving.api.model_config import OUTPUT_NAMES, answer_form
from serving.api.tensors import decode_inputs, requested_outputs
from serving.api.wire import inference
from serving.api.wishes import exit_wishes
from serving.engine.engine import NO_DEADLINE, Engine
from serving.engine.request import Answers
from serving.engine.rules import NO_WISHES, exit_rule
from serving.errors import (
    DeadlineExpired,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    Unsupported,
)
from serving.loop_host import LoopHost
from serving.metrics import Metrics, Outcome
from serving.readiness import Readiness

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
        self,
        request: inference.ModelInferRequest,
        readiness: Readiness,
        metrics: Metrics,
        *,
        time_remaining: float | None = None,
        streamed: bool = False,
    ) -> None:
        self._request = request
        self._readiness = readiness
        self._metrics = metrics
        self._streamed = streamed
        self._started = time.monotonic()
        self._submitted = self._started
        self._deadline = NO_DEADLINE if time_remaining is None else self._started + time_remaining
        self._engine: Engine | None = None
        self._accepted = False
        self._rows = 0

    def submit(self, find_engine: Callable[[], Engine], host: LoopHost) -> "asyncio.Future[Answers]":
        """Decode the rows and put them into the engine, which this loop hosts.

        A version may be replaced between being found and being asked: then its successor is asked.
        """
        self._readiness.begin_call()
        self._accepted = True
        engine = find_engine()
        try:
            return self._submit_to(engine, host)
        except ModelNotReady:
            successor = find_engine()
            if successor is engine:
                raise
            return self._submit_to(successor, host)

    def _submit_to(self, engine: Engine, host: LoopHost) -> "asyncio.Future[Answers]":
        self._engine = engine
        request, manifest = self._request, engine.manifest
        self._form = answer_form(
            manifest.name,
            manifest.version,
            len(manifest.labels),
            requested_outputs(request, OUTPUT_NAMES),
            streamed=self._streamed,
        )
        inputs = decode_inputs(request, manifest.inputs, engine.max_batch_size)
        self._rows = len(next(iter(inputs.values())))
        rule = exit_rule(engine.points, exit_wishes(request.parameters) if request.parameters else NO_WISHES)
        self._submitted = time.monotonic()
        reply = host.reply()
        engine.enter(inputs, rule, self._deadline, reply)
        return reply.future

    def respond(self, answers: Answers) -> bytes:
        """Encode the answers as a ModelInferResponse and count the call as answered."""
        assert self._engine is not None, "a call is answered only after it was submitted"
        answered = time.monotonic()
        response = self._form.encode(self._request.id, self._rows, _arrays(answers))
        self._engine.accounts.statistics.count_success(
            self._rows,
            decode_seconds=self._submitted - self._started,
            queue_seconds=answers.queue_seconds,
            infer_seconds=answered - self._submitted - answers.queue_seconds,
            encode_seconds=time.monotonic() - answered,
        )
        return response

    def __enter__(self) -> Self:
        self._metrics.calls_in_flight += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._metrics.calls_in_flight -= 1
        if self._accepted:
            self._readiness.end_call()
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
