"""deploy/compose.yaml agrees with the files it mounts, with the server's options and with the Dockerfile."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.commands.program import _server_parser
from serving.config import Config
from tests.deploy.prometheus_process import SHIPPED

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TEXT = (DEPLOY / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROVISIONING = DEPLOY / "grafana" / "provisioning"

each_service = pytest.mark.parametrize("name", SERVICES)


def mounts(name: str) -> dict[str, str]:
    """Return the sources of a service's mounts by their path in the container, with defaults filled in."""
    text = (re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", mount) for mount in SERVICES[name]["volumes"])
    return {target: source for source, target, *_ in (mount.split(":") for mount in text)}


def container_ports(name: str) -> set[int]:
    return {int(port.rpartition(":")[2]) for port in SERVICES[name]["ports"]}


def read(path: Path) -> Any:  # noqa: ANN401 - any YAML
    return yaml.safe_load(path.read_text())


@each_service
def test_a_service_publishes_its_ports_on_loopback_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name]["ports"])


@each_service
def test_a_service_has_a_pinned_image_and_a_health_check(name: str) -> None:
    service = SERVICES[name]
    if "build" in service:
        assert re.search(rf"^FROM base AS {service['build']['target']}$", DOCKERFILE, re.MULTILINE)
        assert "\nHEALTHCHECK " in DOCKERFILE
        assert (DEPLOY / service["build"]["context"] / "Dockerfile").samefile(ROOT / "Dockerfile")
    else:
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", service["image"])
        assert service["healthcheck"]["test"][0] == "CMD"


@each_service
def test_a_mounted_file_exists_and_cannot_be_written(name: str) -> None:
    for mount, source in zip(SERVICES[name]["volumes"], mounts(name).values(), strict=True):
        if source.startswith("."):
            assert (DEPLOY / source).exists()
            assert mount.endswith(":ro")
        else:
            assert source in COMPOSE["volumes"]


def test_the_server_knows_its_options() -> None:
    entry_point = json.loads(re.findall(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE, re.MULTILINE)[-1])
    first = next(number for number, word in enumerate(entry_point) if word.startswith("--"))

    options = _server_parser("offramp").parse_args(entry_point[first:] + SERVICES["server"]["command"])

    folder = Path(re.findall(r"^WORKDIR (/srv.*)$", DOCKERFILE, re.MULTILINE)[-1])
    assert set(mounts("server")) == {str(folder / options.model_repository), str(folder / options.state_dir)}
    assert container_ports("server") == {options.grpc_port, options.metrics_port}


def test_no_variable_has_the_prefix_of_the_servers_settings() -> None:
    assert re.findall(r"\$\{?OFFRAMP_\w+", TEXT) == []


def test_docker_waits_longer_than_the_server_drains() -> None:
    grace = int(SERVICES["server"]["stop_grace_period"].removesuffix("s"))

    assert grace > Config().server.drain_seconds


def test_prometheus_scrapes_the_server_and_finds_its_rules() -> None:
    options = dict(option.split("=") for option in SERVICES["prometheus"]["command"])
    sources = mounts("prometheus")
    mounted = Path(options["--config.file"])
    config = read(DEPLOY / sources[str(mounted)])
    _, metrics_port = sorted(container_ports("server"))

    assert (DEPLOY / sources[str(mounted)]).samefile(SHIPPED / "prometheus.yaml")
    assert [config["scrape_configs"][0]["job_name"]] == ["offramp"]
    assert config["scrape_configs"][0]["static_configs"] == [{"targets": [f"server:{metrics_port}"]}]
    assert {str(mounted.parent / name) for name in config["rule_files"]} <= set(sources)
    assert options["--storage.tsdb.path"] in sources


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    (source,) = read(PROVISIONING / "datasources" / "prometheus.yaml")["datasources"]
    (provider,) = read(PROVISIONING / "dashboards" / "offramp.yaml")["providers"]
    sources = mounts("grafana")
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    interval = read(SHIPPED / "prometheus.yaml")["global"]["scrape_interval"]

    assert source["url"] == f"http://prometheus:{container_ports('prometheus').pop()}"
    assert source["jsonData"]["timeInterval"] == interval
    assert (DEPLOY / sources["/etc/grafana/provisioning"]).samefile(PROVISIONING)
    assert Path(home).parent == Path(provider["options"]["path"])
    assert (DEPLOY / sources[home]).samefile(DEPLOY / "grafana" / "offramp.json")


def test_grafana_does_not_start_without_a_password() -> None:
    password = SERVICES["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"]

    assert re.fullmatch(r"\$\{GRAFANA_PASSWORD:\?.+\}", password)
    assert "GRAFANA_PASSWORD=" in TEXT.split("\nname:")[0]
