"""The operator's settings of the server. `serving.config_sources` reads them.

Results of calibration are in the manifest, and a caller's options are in the request.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class Settings(BaseModel):
    """A frozen section. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ServerSettings(Settings):
    """[server]: the gRPC front end and the drain."""

    front_end: Literal["auto", "native", "grpcio"] = "auto"
    """Front end of inference calls. auto: native on loopback if pygrpc-native is installed, otherwise
    grpcio."""
    max_message_bytes: Annotated[int, Field(ge=1024, le=2**31 - 1)] = 64 * 1024 * 1024
    """Largest accepted message, in bytes. A larger one is refused with RESOURCE_EXHAUSTED; the native front
    end receives it first."""
    drain_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Longest time for accepted calls to finish after SIGTERM, in seconds."""
    max_concurrent_rpcs: Annotated[int, Field(ge=1, le=2**30)] = 4096
    """Maximum number of ModelInfer calls in progress; more are refused with RESOURCE_EXHAUSTED."""
    max_streams: Annotated[int, Field(ge=1, le=2**30)] = 256
    """Maximum number of open inference streams; more are refused with RESOURCE_EXHAUSTED. Each holds at most
    two requests or answers, and what the front end reads ahead."""
    allow_empty: bool = False
    """Whether a server without any model is ready. If not, `/readyz` and ServerReady report so."""
    keepalive_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """Time without traffic after which a connection is probed, in seconds."""
    max_connection_age_seconds: Annotated[float, Field(gt=0, le=1_000_000)] = 3600.0
    """Age at which a connection is closed after its calls finish, in seconds; the client then reconnects. The
    native front end has no such limit."""


class EngineSettings(Settings):
    """[engine]: limits on the rows and threads of each version."""

    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = 64
    """Maximum number of rows in a request, and in a stage's batch."""
    max_queue_size: Annotated[int, Field(ge=1, le=2**31 - 1)] = 1024
    """Maximum number of rows of a version that are admitted and unanswered. A request beyond it is refused
    immediately; on a stream it waits."""
    workers: Annotated[int, Field(ge=1, le=256)] | None = None
    """Number of concurrent batches of all versions; by default one per core on the CPU, one on a GPU."""
    idle_intra_op_threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """Threads of a batch while no other batch runs; by default one per core on the CPU. More than 1 needs
    separate sessions, which hold a second copy of the weights."""

    @model_validator(mode="after")
    def _a_batch_fits(self) -> Self:
        if self.max_queue_size < self.max_batch_size:
            raise ValueError(
                f"max_queue_size: expected at least max_batch_size {self.max_batch_size}, "
                f"got {self.max_queue_size}"
            )
        return self


def _text_key(key: str) -> str:
    if not re.fullmatch(r"[a-z0-9_.-]{1,128}", key) or key.endswith("-bin") or key.startswith("grpc-"):
        raise ValueError("expected a metadata key of text: lower case, not grpc-*, not *-bin")
    return key


class MonitorSettings(Settings):
    """[monitor]: tests of certificates on live traffic, and detection of drift."""

    shadow_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Probability that a row's full-depth answer is also computed, after its own answer was sent. With 0 no
    row is sampled, and no certificate is ever revoked by the monitor."""
    max_missing_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Largest share of missing rows that raises no alarm, among the last 100 sampled rows that left early. A
    missing row counts as agreeing."""
    on_broken: Literal["demote", "warn"] = "demote"
    """Action for a broken certificate. demote: the point is revoked, and callers get a safer one. warn: it is
    only logged and shown in the metrics."""
    caller_metadata: Annotated[str, AfterValidator(_text_key)] | None = None
    """Metadata key whose value names the caller, set by a trusted proxy; by default the caller is the IP
    address."""
    drift_rows: Annotated[int, Field(ge=500, le=10_000_000)] = 1000
    """Rows in a window whose exits and confidences are compared with the manifest."""
    drift_alarm: Annotated[float, Field(gt=0)] = 0.1
    """Population stability index above which a window raises the alarm."""


class TrialSettings(Settings):
    """[trial]: the separate process that opens and runs a new version before it is loaded."""

    enabled: bool = True
    """Whether trials are run. Without them, a version that loops forever blocks all loads, and a version that
    exhausts the memory ends the server."""
    max_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """Longest duration of a trial, in seconds; a version that takes longer is refused."""
    max_memory_bytes: Annotated[int, Field(ge=2**27)] = 4 * 1024**3
    """Maximum resident memory of a trial, in bytes, on Linux; a version that takes more is refused."""


class TrainingSettings(Settings):
    """[training]: limits on training jobs, which need `--enable-training`."""

    max_jobs: Annotated[int, Field(ge=1, le=1024)] = 1
    """Maximum number of concurrent jobs; more are refused with RESOURCE_EXHAUSTED."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Maximum number of threads of a job; by default half the cores, at least 1."""
    max_memory_bytes: Annotated[int, Field(ge=2**20)] | None = None
    """Maximum resident memory of a job's processes, in bytes, on Linux; a job that exceeds it is killed. By
    default half of the machine's memory or of its cgroup's limit, divided by `max_jobs`."""
    min_free_bytes: Annotated[int, Field(ge=0)] = 1024**3
    """Free disk space in the training folder that a job needs to start, in bytes."""
    keep_days: Annotated[float, Field(gt=0, le=36_500)] = 90.0
    """Time after which the record and files of an ended job are removed, in days."""
    keep_jobs: Annotated[int, Field(ge=1, le=1000)] = 1000
    """Maximum number of ended jobs that are kept; the oldest are removed first."""

    @property
    def granted_threads(self) -> int:
        """Maximum number of threads of a job."""
        return self.threads or max(1, (os.cpu_count() or 1) // 2)


FilePath = Annotated[Path, Field(strict=False)]
"""A path. In the TOML file, a relative path is relative to the folder of the file."""


class SecuritySettings(Settings):
    """[security]: TLS and bearer tokens. With either, `server.front_end = "auto"` chooses grpcio."""

    certificate: FilePath | None = None
    """PEM file of the server's certificate and its chain. With it, gRPC and HTTP use TLS."""
    key: FilePath | None = None
    """PEM file of the certificate's key, without a password."""
    client_ca: FilePath | None = None
    """PEM file of the authority that signs client certificates. With it, every gRPC client needs one."""
    token_file: FilePath | None = None
    """File of hashed bearer tokens, from `offramp token`. With it, every gRPC call needs a token."""
    open_health: bool = True
    """Whether the standard health service needs no token."""
    refresh_seconds: Annotated[float, Field(gt=0, le=86_400)] = 10.0
    """Interval at which changed files are read again, in seconds; SIGHUP reads them at once."""

    @model_validator(mode="after")
    def _files_belong_together(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("expected certificate and key together, got only one of them")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("client_ca: expected a certificate too, got none")
        return self


class LogSettings(Settings):
    """[log]: what the log contains besides events of the server."""

    access_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that a request writes one line when it ends. After a burst of 100, at most 10 lines a
    second are written."""


def _receiver_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and parts.hostname and parts.port is not None
    except ValueError:
        valid = False
    if not valid or parts.path not in {"", "/"} or parts.query or parts.username:
        raise ValueError("expected the URL of an OTLP gRPC receiver, http://HOST:PORT or https://HOST:PORT")
    return url


class TracingSettings(Settings):
    """[tracing]: OpenTelemetry spans of inference calls."""

    endpoint: Annotated[str, AfterValidator(_receiver_url)] | None = None
    """URL of the OTLP gRPC receiver of spans, such as http://127.0.0.1:4317; https:// uses TLS. Without it no
    call is traced. It needs the extra `tracing`."""
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Probability that a call is traced. In a call with a `traceparent`, its sampled flag decides instead."""


class ModelSettings(Settings):
    """[models.<name>]: settings of one model."""

    versions: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] = ()
    """Versions to serve besides the default version."""


class Config(Settings):
    """All sections."""

    server: ServerSettings = ServerSettings()
    engine: EngineSettings = EngineSettings()
    monitor: MonitorSettings = MonitorSettings()
    trial: TrialSettings = TrialSettings()
    training: TrainingSettings = TrainingSettings()
    security: SecuritySettings = SecuritySettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()
    models: dict[str, ModelSettings] = {}
