"""Inference calls from their bytes to their answers: decode, check, admit; encode what they end with.

A front end calls `begin` with each call as it comes, in the thread that received it. How a call travels
is the front end's business; which rows run when, the engine's.
"""

import time
from functools import partial

from serving.api.answer_form import AnswerForm
from serving.api.interceptors import parse, refuse
from serving.api.model_config import OUTPUT_NAMES, answer_form
from serving.api.options import exit_options
from serving.api.tensors import decode_inputs, requested_outputs
from serving.api.wire import inference
from serving.engine.engine import Engine
from serving.engine.observation import outcome_of
from serving.engine.request import NO_DEADLINE, Answers, Request, Result
from serving.engine.version import ServedVersion
from serving.errors import ModelNotReady
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

    def begin(
        self, payload: bytes, call: Call, seconds_left: float | None, *, streamed: bool = False
    ) -> Pending | None:
        """Admit a call, or refuse it at once and return None.

        payload: a ModelInferRequest. seconds_left: until the caller's deadline, where it has one.
        streamed: the answer states that it is the last of its request. The call is answered or refused
        exactly once, now or when its request ends.
        """
        received = time.monotonic()
        deadline = NO_DEADLINE if seconds_left is None else received + seconds_left
        message, version, request = None, None, None
        try:
            message = parse(RPC, inference.ModelInferRequest, payload)
            version = self._find(message)
            request = _request(version, message, call, received, deadline, streamed=streamed)
            try:
                self._engine.submit(version, request)
            except ModelNotReady:  # it may have been replaced since it was found
                successor = self._find(message)
                if successor is version:
                    raise
                version = successor
                request = _request(version, message, call, received, deadline, streamed=streamed)
                self._engine.submit(version, request)
        except Exception as error:
            request_id = "" if message is None else message.id
            call.refuse(refuse(RPC, request_id, error), request_id)
            self._record_refusal(error, version, 0 if request is None else request.rows, received)
            error.__traceback__ = None  # its frames hold the request
            return None
        return Pending(request, partial(self._engine.cancel, version, request))

    def _find(self, message: inference.ModelInferRequest) -> ServedVersion:
        self._readiness.check()
        return self._repository.get(message.model_name, parse_version(message.model_version))

    def _record_refusal(
        self, error: Exception, version: ServedVersion | None, rows: int, received: float
    ) -> None:
        if version is None:
            self._metrics.request_of_no_model(outcome_of(error))
        else:
            version.observation.failed(error, rows, received)


def _request(
    version: ServedVersion,
    message: inference.ModelInferRequest,
    call: Call,
    received: float,
    deadline: float,
    *,
    streamed: bool,
) -> Request:
    """Decode and check a message's rows and options."""
    manifest = version.manifest
    outputs = requested_outputs(message, OUTPUT_NAMES)
    form = answer_form(manifest.name, manifest.version, len(manifest.labels), outputs, streamed=streamed)
    inputs = decode_inputs(message, manifest.inputs, version.max_batch_size)
    rows = len(next(iter(inputs.values())))
    rule = exit_rule(version.points, exit_options(message.parameters))
    return Request(
        inputs,
        rows,
        rule,
        deadline,
        partial(_reply, call, form, message.id),
        received,
        version.monitor.sample(rows, rule),
    )


def _reply(call: Call, form: AnswerForm, request_id: str, result: Result) -> None:
    if isinstance(result, Answers):
        call.answer(form.encode(request_id, result))
    else:
        call.refuse(refuse(RPC, request_id, result), request_id)
