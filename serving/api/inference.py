"""Inference calls from their bytes to their answers: decode, admit; encode what they end with.

A front end calls `begin` with each call as it comes, in the thread that received it. How a call travels
is the front end's business; which rows run when, the engine's.
"""

import time
from functools import partial

from serving.api.answer_form import AnswerForm
from serving.api.decoding import Decoded, Decoder
from serving.api.interceptors import refuse
from serving.api.outline import read_names
from serving.engine.engine import Engine
from serving.engine.observation import outcome_of
from serving.engine.request import NO_DEADLINE, Answers, Request, Result
from serving.engine.version import ServedVersion
from serving.errors import ModelNotReady, OfframpError
from serving.exits.options import exit_rule
from serving.frontend.interface import Call, Pending
from serving.metrics import Metrics
from serving.readiness import Readiness
from serving.repository.repository import ModelRepository, parse_version

RPC = "ModelInfer"


class Inference:
    """Begins ModelInfer calls, and the messages of ModelStreamInfer."""

    def __init__(
        self,
        repository: ModelRepository[ServedVersion],
        engine: Engine,
        readiness: Readiness,
        metrics: Metrics,
    ) -> None:
        self._repository = repository
        self._engine = engine
        self._readiness = readiness
        self._metrics = metrics
        self._decoder = Decoder(self._find)

    def begin(
        self, payload: bytes, call: Call, seconds_left: float | None, *, streamed: bool = False
    ) -> Pending | None:
        """Admit a call, or refuse it at once and return None; one of a stream waits where there is no room.

        payload: a ModelInferRequest. seconds_left: until the caller's deadline, where it has one.
        streamed: the answer states that it is the last of its request. The call is answered or refused
        exactly once, now or when its request ends.
        """
        received = time.monotonic()
        deadline = NO_DEADLINE if seconds_left is None else received + seconds_left
        rows = 0
        try:
            self._readiness.check()
            decoded = self._decoder.decode(payload, streamed=streamed)
            rows = decoded.rows
            try:
                return self._submit(decoded, call, received, deadline, streamed=streamed)
            except ModelNotReady:  # the version may have been replaced since it was found
                successor = self._decoder.decode(payload, streamed=streamed)
                if successor.version is decoded.version:
                    raise
                return self._submit(successor, call, received, deadline, streamed=streamed)
        except Exception as error:
            self._refuse(payload, call, error, rows, received)
            error.__traceback__ = None  # its frames hold the request
            return None

    def _submit(
        self, decoded: Decoded, call: Call, received: float, deadline: float, *, streamed: bool
    ) -> Pending:
        version, rows = decoded.version, decoded.rows
        rule = exit_rule(version.points, decoded.options)
        reply = partial(_reply, call, decoded.form, decoded.request_id)
        is_synthetic = decoded.options.synthetic
        sampled = () if is_synthetic else version.monitor.sample(rows, rule)
        caller = call.caller if sampled else ""
        request = Request(
            decoded.inputs,
            rows,
            rule,
            deadline,
            reply,
            received,
            sampled,
            caller,
            is_synthetic,
            is_streamed=streamed,
        )
        self._engine.submit(version, request)
        return Pending(request, partial(self._engine.cancel, version, request))

    def _find(self, model: str, version: str) -> ServedVersion:
        return self._repository.get(model, parse_version(version))

    def _refuse(self, payload: bytes, call: Call, error: Exception, rows: int, received: float) -> None:
        """Refuse a call, and count it for the version that it names, if there is one."""
        model, number, request_id = read_names(payload)
        try:
            version = self._find(model, number)
        except OfframpError:
            version = None
        call.refuse(refuse(RPC, request_id, error), request_id)
        if version is None:
            self._metrics.request_of_no_model(outcome_of(error))
        else:
            version.observation.failed(error, rows, received)


def _reply(call: Call, form: AnswerForm, request_id: str, result: Result) -> None:
    """Send a request's result; whatever goes wrong here is this call's alone."""
    try:
        if isinstance(result, Answers):
            call.answer(form.encode(request_id, result))
            return
    except Exception as error:
        result = error
    call.refuse(refuse(RPC, request_id, result), request_id)
