from pathlib import Path

import pytest
from pydantic import BaseModel

from serving.config import (
    Config,
    EngineSettings,
    ModelSettings,
    ServerSettings,
    TrainingSettings,
)
from serving.config_sources import load_config
from serving.errors import ConfigurationError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "serving.toml"


def test_no_file_gives_the_defaults() -> None:
    assert load_config(None) == Config()


def test_an_empty_file_gives_the_defaults(file: Path) -> None:
    file.write_text("")

    assert load_config(file) == Config()


def test_what_the_file_says_is_taken(file: Path) -> None:
    file.write_text(
        "[server]\ndrain_seconds = 2.5\n[engine]\nworkers = 3\n[models.digits]\nversions = [1, 4]\n"
    )

    config = load_config(file)

    assert config.server == ServerSettings(drain_seconds=2.5)
    assert config.engine == EngineSettings(workers=3)
    assert config.models == {"digits": ModelSettings(versions=(1, 4))}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "bogus = 1",
            "bogus: unknown key, known keys: server, engine, monitor, trial, training, security, log, "
            "tracing, models",
        ),
        (
            "[server]\nbogus = 1",
            "server.bogus: unknown key, known keys: front_end, max_message_bytes, drain_seconds",
        ),
        ("[engine]\nbogus = 1", "engine.bogus: unknown key, known keys: max_batch_size, max_queue_size"),
        ("[models.x]\nbogus = 1", "models.x.bogus: unknown key, known keys: versions"),
        ('[monitor]\non_broken = "ignore"', "monitor.on_broken: Input should be 'demote' or 'warn', got"),
        ('[monitor]\ncaller_metadata = "X-Caller"', "monitor.caller_metadata: "),
        ('[monitor]\ncaller_metadata = "x-caller-bin"', "monitor.caller_metadata: "),
        ('[monitor]\ncaller_metadata = "grpc-caller"', "monitor.caller_metadata: "),
        ("[engine]\nworkers = 0", "engine.workers: Input should be greater than or equal to 1, got 0"),
        ("[engine]\nworkers = 2.5", "engine.workers: "),
        ("[engine]\nmax_batch_size = 5000", "engine.max_batch_size: "),
        ("[engine]\nidle_intra_op_threads = 0", "engine.idle_intra_op_threads: Input should be greater than"),
        ("[engine]\nmax_queue_size = 63", "engine: max_queue_size: expected at least max_batch_size 64, got"),
        (
            '[server]\nfront_end = "nativ"',
            "server.front_end: Input should be 'auto', 'native' or 'grpcio', got",
        ),
        ("[models.x]\nversions = [0]", "models.x.versions.0: "),
        ("[server]\ndrain_seconds = nan", "server.drain_seconds: "),
        ("[server]\ndrain_seconds = 0", "server.drain_seconds: "),
        ("[server]\nkeepalive_seconds = inf", "server.keepalive_seconds: "),
        ("[server]\nmax_message_bytes = 2147483648", "server.max_message_bytes: "),
        ("[server]\nmax_concurrent_rpcs = 0", "server.max_concurrent_rpcs: "),
        ("[trial]\nenabled = 1", "trial.enabled: Input should be a valid boolean, got 1"),
        ("[trial]\nmax_seconds = 0", "trial.max_seconds: "),
        ("[trial]\nmax_memory_bytes = 1000", "trial.max_memory_bytes: "),
        ("[trial]\nbogus = 1", "trial.bogus: unknown key, known keys: enabled, max_seconds, max_memory"),
        ("[training]\nmax_jobs = 0", "training.max_jobs: "),
        ("[training]\nthreads = 0", "training.threads: "),
        ("[training]\nmax_memory_bytes = 1000", "training.max_memory_bytes: "),
        ("[training]\nmin_free_bytes = -1", "training.min_free_bytes: "),
        ("[training]\nbogus = 1", "training.bogus: unknown key, known keys: max_jobs, threads, max_mem"),
        *(
            (f'[tracing]\nendpoint = "{url}"', "tracing.endpoint: expected the URL of an OTLP gRPC receiver")
            for url in (
                "127.0.0.1:4317",
                "http://",
                "http://collector",
                "http://collector:port",
                "http://collector:4318/v1/traces",
                "http://user@collector:4317",
                "grpc://collector:4317",
            )
        ),
        ("[tracing]\nsample_ratio = 1.5", "tracing.sample_ratio: "),
        ("models = 3", "models: "),
        ("[engine", "not TOML: "),
        ("\xff", "not TOML: "),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(file: Path, text: str, complaint: str) -> None:
    file.write_bytes(text.encode("latin-1"))

    with pytest.raises(ConfigurationError) as refusal:
        load_config(file)

    assert str(refusal.value).startswith(f"{file}: {complaint}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("removed", ["slots", "patience", "caller_milliseconds", "lone_threads"])
def test_a_setting_of_the_old_engine_is_refused_by_name(file: Path, removed: str) -> None:
    file.write_text(f"[engine]\n{removed} = 64\n")

    with pytest.raises(
        ConfigurationError, match=rf"engine\.{removed}: unknown key, known keys: max_batch_size"
    ):
        load_config(file)


@pytest.mark.parametrize("front_end", ["auto", "native", "grpcio"])
def test_each_front_end_may_be_chosen(file: Path, front_end: str) -> None:
    file.write_text(f'[server]\nfront_end = "{front_end}"\n')

    assert load_config(file).server.front_end == front_end


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"serving.toml: cannot be read: No such file"):
        load_config(file)


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        load_config(tmp_path)


@pytest.mark.parametrize("section", [Config, ServerSettings, EngineSettings, TrainingSettings, ModelSettings])
def test_settings_are_frozen_and_refuse_unknown_keys(section: type[BaseModel]) -> None:
    assert section.model_config.get("frozen") is True
    assert section.model_config.get("extra") == "forbid"


CHANGED = {
    "front_end": "grpcio",
    "on_broken": "warn",
    "caller_metadata": "123",
    "max_memory_bytes": 2**28,
    "keep_jobs": 10,
    "shadow_share": 0.5,
    "max_missing_share": 0.5,
    "access_share": 0.5,
    "sample_ratio": 0.5,
    "endpoint": "http://127.0.0.1:4317",
    "certificate": Path("cert.pem"),
    "key": Path("key.pem"),
    "client_ca": Path("ca.pem"),
    "token_file": Path("tokens"),
}
"""Values other than the default. A setting that is not here has a boolean or a number that may grow by 1."""
REQUIRED = {
    "certificate": {"key": "key.pem"},
    "key": {"certificate": "cert.pem"},
    "client_ca": {"certificate": "cert.pem", "key": "key.pem"},
}
"""Settings that others need."""
SETTINGS = [
    (section, key)
    for section, field in Config.model_fields.items()
    if isinstance(field.default, BaseModel)
    for key in type(field.default).model_fields
]


def variable(section: str, key: str) -> str:
    return f"OFFRAMP_{section}__{key}".upper()


def changed(section: str, key: str) -> object:
    default = getattr(getattr(Config(), section), key)
    if isinstance(default, bool):
        return not default
    return CHANGED[key] if key in CHANGED else (default or 1) + 1


@pytest.mark.parametrize(("section", "key"), SETTINGS, ids=lambda part: str(part))
def test_every_setting_has_a_variable(monkeypatch: pytest.MonkeyPatch, section: str, key: str) -> None:
    expected = changed(section, key)
    monkeypatch.setenv(variable(section, key), str(expected).lower())
    for other, value in REQUIRED.get(key, {}).items():
        monkeypatch.setenv(variable(section, other), value)

    assert getattr(getattr(load_config(None), section), key) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [("OFFRAMP_MODELS", '{"digits": {"versions": [1, 4]}}'), ("OFFRAMP_MODELS__DIGITS__VERSIONS", "[1, 4]")],
)
def test_the_versions_of_a_model_are_json(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)

    assert load_config(None).models == {"digits": ModelSettings(versions=(1, 4))}


def test_a_variable_overrides_the_file_and_the_other_settings_remain(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("[server]\ndrain_seconds = 2.5\nmax_streams = 7\n[engine]\nworkers = 3\n")
    monkeypatch.setenv("OFFRAMP_SERVER__DRAIN_SECONDS", "4")
    monkeypatch.setenv("offramp_server__allow_empty", "true")

    config = load_config(file)

    assert config.server == ServerSettings(drain_seconds=4.0, max_streams=7, allow_empty=True)
    assert config.engine == EngineSettings(workers=3)


def test_paths_of_the_file_are_relative_to_it_and_those_of_variables_are_not(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('[security]\ncertificate = "cert.pem"\n')
    monkeypatch.setenv("OFFRAMP_SECURITY__KEY", "key.pem")

    security = load_config(file).security

    assert (security.certificate, security.key) == (file.parent / "cert.pem", Path("key.pem"))


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        (
            "SERVER__MAX_MESSAGE_BYTES",
            "5",
            "server.max_message_bytes: Input should be greater than or equal to 1024, got 5",
        ),
        ("SERVER__MAX_STREAMS", "2.5", "server.max_streams: Input should be a valid integer, got '2.5'"),
        ("SERVER__MAX_STREAMS", "", "server.max_streams: Input should be a valid integer, got ''"),
        (
            "SERVER__FRONT_END",
            "nativ",
            "server.front_end: Input should be 'auto', 'native' or 'grpcio', got 'nativ'",
        ),
        ("SERVER__BOGUS", "1", "server.bogus: unknown key, known keys: front_end, max_message_bytes, "),
        ("SERVER", "[1", "server: expected JSON, got '[1'"),
        (
            "SERVER",
            '{"max_streams": 0}',
            "server.max_streams: Input should be greater than or equal to 1, got 0",
        ),
        ("MODELS__X__VERSIONS", "one", "models.x.versions: expected JSON, got 'one'"),
        ("MODELS__X__VERSIONS", "1", "models.x.versions: Input should be a valid array, got 1"),
        (
            "ENGINE__MAX_QUEUE_SIZE",
            "63",
            "engine: max_queue_size: expected at least max_batch_size 64, got 63",
        ),
    ],
)
def test_a_wrong_value_names_its_variable_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, complaint: str
) -> None:
    monkeypatch.setenv(f"OFFRAMP_{name}", value)

    with pytest.raises(ConfigurationError) as refusal:
        load_config(None)

    assert str(refusal.value).startswith(f"OFFRAMP_{name}: {complaint}")
    assert "\n" not in str(refusal.value)


def test_an_error_of_the_file_does_not_name_a_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("[server]\nmax_streams = 0\n")
    monkeypatch.setenv("OFFRAMP_SERVER__DRAIN_SECONDS", "4")

    with pytest.raises(ConfigurationError, match=rf"^{file}: server\.max_streams: "):
        load_config(file)


def test_an_error_of_two_settings_names_the_variable_and_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("[engine]\nmax_queue_size = 64\n")
    monkeypatch.setenv("OFFRAMP_ENGINE__MAX_BATCH_SIZE", "65")

    with pytest.raises(
        ConfigurationError,
        match=rf"^OFFRAMP_ENGINE__MAX_BATCH_SIZE, {file}: engine: max_queue_size: .* 65, got 64",
    ):
        load_config(file)


SECTIONS = "known sections: server, engine, monitor, trial, training, security, log, tracing, models"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("OFFRAMP_SECURTY__TOKEN_FILE", "unknown section 'securty'"),
        ("offramp_securty__token_file", "unknown section 'securty'"),
        ("OFFRAMP__SECURITY__TOKEN_FILE", "unknown section '_security'"),
        ("OFFRAMP__SECURITY_TOKEN_FILE", "unknown section '_security_token_file'"),
        ("OFFRAMP_SECURITY_TOKEN__FILE", "unknown section 'security_token'"),
        (
            "OFFRAMP_SECURITY_TOKEN_FILE",
            "expected two underscores after the section, OFFRAMP_SECURITY__TOKEN_FILE",
        ),
        ("offramp_log_level", "expected two underscores after the section, OFFRAMP_LOG__LEVEL"),
        ("OFFRAMP_MODELS_", "expected two underscores after the section, OFFRAMP_MODELS__"),
    ],
)
def test_a_misspelled_variable_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str, complaint: str
) -> None:
    file.write_text("")
    monkeypatch.setenv(name, "tokens")

    with pytest.raises(ConfigurationError) as refusal:
        load_config(file)

    assert str(refusal.value) == f"{name}: {complaint}, {SECTIONS}"


@pytest.mark.parametrize("name", ["OFFRAMP_SECURITY___TOKEN_FILE", "OFFRAMP_SECURITY__"])
def test_other_underscores_after_the_section_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "tokens")

    with pytest.raises(ConfigurationError, match=rf"^{name}: security\."):
        load_config(None)


@pytest.mark.parametrize(
    "name",
    [
        # Kubernetes sets these for Services with the names offramp and offramp-server.
        "OFFRAMP_SERVICE_HOST",
        "OFFRAMP_SERVICE_PORT",
        "OFFRAMP_SERVICE_PORT_GRPC",
        "OFFRAMP_PORT",
        "OFFRAMP_PORT_8001_TCP_ADDR",
        "OFFRAMP_SERVER_SERVICE_HOST",
        "OFFRAMP_SERVER_SERVICE_PORT",
        "OFFRAMP_SERVER_SERVICE_PORT_GRPC",
        "OFFRAMP_SERVER_PORT",
        "OFFRAMP_SERVER_PORT_8001_TCP",
        "OFFRAMP_HOME",
    ],
)
def test_variables_that_are_not_settings_are_ignored(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:8001")

    assert load_config(None) == Config()
