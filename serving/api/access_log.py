"""The access log: one line for a sampled share of requests, with their outcome, exits and duration."""

import random
import time
from collections.abc import Mapping
from functools import partial

import numpy as np
import structlog

from serving.engine.observation import outcome_of
from serving.engine.request import Answers, Reply, Result
from serving.errors import shown
from serving.exits.policy import ExitRule
from serving.frontend.interface import Call
from serving.metrics.model_metrics import Outcome
from serving.repository.manifest import Manifest

_LOG = structlog.get_logger(__name__)


class AccessLog:
    """Samples requests and logs each sampled one when it ends. Thread-safe."""

    def __init__(self, share: float) -> None:
        """Set the probability that a request is logged."""
        self._share = share

    def samples(self) -> bool:
        """Return whether to log the next request."""
        return random.random() < self._share  # noqa: S311 - not for security

    def logged(
        self,
        reply: Reply,
        call: Call,
        request_id: str,
        manifest: Manifest,
        rule: ExitRule,
        rows: int,
        received: float,
        *,
        streamed: bool,
    ) -> Reply:
        """Return a reply that sends the result and then logs the request. request_id: that of its message."""
        model, version, point = manifest.name, str(manifest.version), rule.operating_point
        fields = _fields(call, request_id, model, version, point, rows, streamed=streamed)
        return partial(_reply_and_log, reply, fields, received)

    def refused(
        self,
        call: Call,
        request_id: str,
        error: Exception,
        model: str,
        version: str,
        point: str,
        rows: int,
        received: float,
        *,
        streamed: bool,
    ) -> None:
        """Log a request that was not admitted. model, version: as the caller sent them."""
        model, version = shown(model), shown(version)
        fields = _fields(call, request_id, model, version, point, rows, streamed=streamed)
        _write(fields, received, error)


def _fields(
    call: Call, request_id: str, model: str, version: str, point: str, rows: int, *, streamed: bool
) -> dict[str, object]:
    return {
        "rpc": "ModelStreamInfer" if streamed else "ModelInfer",
        "model": model,
        "version": version,
        "caller": call.caller,
        "rows": rows,
        "operating_point": point,
        "request_id": shown(call.request_id or request_id),
    }


def _reply_and_log(reply: Reply, fields: Mapping[str, object], received: float, result: Result) -> None:
    reply(result)
    _write(fields, received, result)


def _write(fields: Mapping[str, object], received: float, result: Result) -> None:
    exits: dict[str, int] = {}
    outcome = Outcome.OK
    if isinstance(result, Answers):
        numbers, counts = np.unique(result.exit_R, return_counts=True)
        exits = dict(zip(map(str, numbers.tolist()), counts.tolist(), strict=True))
    else:
        outcome = outcome_of(result)
    milliseconds = round((time.monotonic() - received) * 1e3, 3)
    _LOG.info("request", **fields, outcome=outcome.value, exits=exits, milliseconds=milliseconds)
