"""Decodes and admits inference calls, and encodes their results.

A front end calls `Inference.begin` for each call.
"""

import time
from functools import partial
from typing import TYPE_CHECKING

from serving.api.access_log import AccessLog
from serving.api.answer_form import AnswerForm
from serving.api.decoding import Decoded, Decoder
from serving.api.interceptors import refuse
from serving.api.outline import read_names
from serving.engine.engine import Engine
from serving.engine.observation import outcome_of
from serving.engine.request import NO_DEADLINE, Answers, Reply, Request, Result
from serving.engine.version import ServedVersion
from serving.errors import ModelNotReady, OfframpError
from serving.exits.options import exit_rule
from serving.exits.policy import ExitRule
from serving.frontend.interface import Call, Pending
from serving.lifecycle.readiness import Readiness
from serving.metrics.instruments import Metrics
from serving.repository.repository import ModelRepository, parse_version

if TYPE_CHECKING:  # it imports OpenTelemetry
    from serving.tracing.spans import CallTrace, CallTracer

RPC = "ModelInfer"


class Inference:
    """Decodes and admits ModelInfer calls, and the messages of ModelStreamInfer."""

    def __init__(
        self,
        repository: ModelRepository[ServedVersion],
        engine: Engine,
        readiness: Readiness,
        metrics: Metrics,
        access_share: float = 0.0,
        *,
        list_models: bool = True,
        tracer: "CallTracer | None" = None,
    ) -> None:
        """Start without calls.

        access_share: share of requests in the access log. list_models: whether the error for an unknown model
        lists the served ones. tracer: None if tracing is off.
        """
        self._repository = repository
        self._engine = engine
        self._readiness = readiness
        self._metrics = metrics
        self._decoder = Decoder(self._find)
        self._access_log = AccessLog(access_share)
        self._list_models = list_models
        self._tracer = tracer

    def begin(
        self, payload: bytes, call: Call, seconds_left: float | None, *, streamed: bool = False
    ) -> Pending | None:
        """Admit a call, or refuse it immediately and return None.

        The call is answered or refused exactly once, now or when its request ends. payload: a
        ModelInferRequest. seconds_left: time until the caller's deadline, None without one. streamed: the
        call is a message of a stream. It waits if there is no room. Its answer carries
        `triton_final_response`.
        """
        received = time.monotonic()
        deadline = NO_DEADLINE if seconds_left is None else received + seconds_left
        rows, point, trace = 0, "", None
        try:
            if self._tracer is not None:
                trace = self._tracer.start(call.metadata, received, streamed=streamed)
            self._readiness.check()
            decoded = self._decoder.decode(payload, streamed=streamed)
            rows = decoded.rows
            rule = exit_rule(decoded.version.points, decoded.options)
            point = rule.operating_point
            try:
                return self._submit(decoded, rule, call, received, deadline, trace, streamed=streamed)
            except ModelNotReady:  # the version may have been replaced in the meantime
                successor = self._decoder.decode(payload, streamed=streamed)
                if successor.version is decoded.version:
                    raise
                rule = exit_rule(successor.version.points, successor.options)
                point = rule.operating_point
                return self._submit(successor, rule, call, received, deadline, trace, streamed=streamed)
        except Exception as error:
            self._refuse(payload, call, error, point, rows, received, trace, streamed=streamed)
            error.__traceback__ = None  # its frames reference the request
            return None

    def _submit(
        self,
        decoded: Decoded,
        rule: ExitRule,
        call: Call,
        received: float,
        deadline: float,
        trace: "CallTrace | None",
        *,
        streamed: bool,
    ) -> Pending:
        version, rows = decoded.version, decoded.rows
        reply: Reply = partial(_reply, call, decoded.form, decoded.request_id, streamed=streamed)
        if self._access_log.samples():
            reply = self._access_log.logged(
                reply, call, decoded.request_id, version.manifest, rule, rows, received, streamed=streamed
            )
        if trace is not None:
            name, number = version.manifest.name, str(version.manifest.version)
            request_id = call.request_id or decoded.request_id
            trace.describe(name, number, rule.operating_point, rows, request_id)
            reply = trace.traced(reply, rule)
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
            stage_runs=None if trace is None else trace.stage_runs,
        )
        self._engine.submit(version, request)
        return Pending(request, partial(self._engine.cancel, version, request))

    def _find(self, model: str, version: str) -> ServedVersion:
        return self._repository.get(model, parse_version(version), list_models=self._list_models)

    def _refuse(
        self,
        payload: bytes,
        call: Call,
        error: Exception,
        point: str,
        rows: int,
        received: float,
        trace: "CallTrace | None",
        *,
        streamed: bool,
    ) -> None:
        """Refuse a call. Count the refusal for the requested version, or for no model if it is not served.

        point: the operating point of its exit rule; empty if the rule is unknown.
        """
        model, number, message_id = read_names(payload)
        try:
            version = self._find(model, number)
        except OfframpError:
            version = None
        _refuse_call(call, message_id, error, streamed=streamed)
        if self._access_log.samples():
            self._access_log.refused(
                call, message_id, error, model, number, point, rows, received, streamed=streamed
            )
        if trace is not None:
            trace.describe(model, number, point, rows, call.request_id or message_id)
            trace.end(error)
        if version is None:
            self._metrics.request_of_no_model(outcome_of(error), time.monotonic() - received)
        else:
            version.observation.failed(error, point, rows, received)


def _reply(call: Call, form: AnswerForm, message_id: str, result: Result, *, streamed: bool) -> None:
    """Send a request's result. If encoding fails, only this call is refused.

    message_id: the id in the request's message. The response contains it.
    """
    try:
        if isinstance(result, Answers):
            call.answer(form.encode(message_id, result), call.request_id or message_id)
            return
    except Exception as error:
        result = error
    _refuse_call(call, message_id, result, streamed=streamed)


def _refuse_call(call: Call, message_id: str, error: Exception, *, streamed: bool) -> None:
    """Refuse a call. On a stream the refusal carries the id of the message, so the caller can match them."""
    request_id = call.request_id or message_id
    call.refuse(refuse(RPC, request_id, error), message_id if streamed else request_id)
