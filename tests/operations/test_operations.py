"""Every command of docs/operations.md runs, in order, against real processes."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from serving import __version__
from serving.commands.program import _parser, _server_parser
from serving.config import Config
from tests.deploy.dockerfile import read_dockerfile
from tests.deploy.prometheus_process import PROMETHEUS, PROMTOOL, SHIPPED, needs_promtool
from tests.operations.following import follow_page, prepare_home
from tests.operations.page import ROOT, fenced, page_blocks, section
from tests.operations.terminals import Terminals

NOT_RUN = {
    "python3 -m venv": "the checkout has a virtual environment",
    ". venv/bin/activate": "the same",
    "pip ": "needs a package index; `python -m tests.operations.acceptance` runs it",
    "promtool test rules": "takes 7 s; tests/deploy/test_rules.py runs it on the same files",
    "docker ": "needs Docker; `make container-check` runs the Dockerfile's steps",
    "kubectl ": "needs a cluster; tests/deploy/test_kubernetes.py checks the manifests",
}
"""The lines that do not run here, by their first words, with the reason."""
WITHOUT_PROMETHEUS = ("prometheus ", "promtool ", "curl --fail --silent http://127.0.0.1:9090")
SECONDS = 20.0
ABSENT = [program for program in ("curl", "openssl") if shutil.which(program) is None]
SECRETS = ("ca.key", "server.key", "operator.token", "backup.tar.gz", "restored/server.key")


@pytest.mark.skipif(ABSENT != [], reason=f"not installed: {', '.join(ABSENT)}")
@pytest.mark.timeout(120)
def test_the_commands_of_the_page_run_in_order(tmp_path: Path) -> None:
    folder, home = tmp_path / "folder", tmp_path / "home"
    folder.mkdir()
    prepare_home(home)
    has_prometheus = PROMETHEUS is not None and PROMTOOL is not None
    variables = {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }

    def shorten() -> None:
        for path in (folder / "monitoring" / "prometheus.yaml", folder / "monitoring" / "rules.yaml"):
            text = re.sub(r"interval: \w+", "interval: 250ms", path.read_text())
            path.write_text(re.sub(r"\n +for: .*", "", text))

    with Terminals(
        page_blocks(),
        folder,
        variables,
        [*NOT_RUN, *(() if has_prometheus else WITHOUT_PROMETHEUS)],
        {"--poll-seconds 30": "--poll-seconds 0.2"},
    ) as page:
        follow_page(page, SECONDS, has_prometheus=has_prometheus, before_prometheus=shorten)

    assert [name for name in SECRETS if (folder / name).stat().st_mode & 0o077] == []


def test_the_page_installs_the_wheel_of_this_version() -> None:
    install = fenced("sh", section("Install"))[0]

    assert f'pip install "dist/offramp-{__version__}-py3-none-any.whl[serving]"' in install


def test_the_unit_of_systemd_starts_the_server_and_waits_for_its_drain() -> None:
    unit = configparser.RawConfigParser()
    unit.read_string(fenced("ini", section("Serve"))[0])
    program, command, *options = shlex.split(unit["Service"]["ExecStart"])

    parsed = _server_parser("offramp").parse_args(options)

    assert (Path(program).name, command) == ("offramp", "serve")
    assert parsed.state_dir == Path("state")
    assert float(unit["Service"]["TimeoutStopSec"]) > Config().server.drain_seconds


@needs_promtool
def test_prometheus_accepts_the_settings_for_tls(tmp_path: Path) -> None:
    config = yaml.safe_load((SHIPPED / "prometheus.yaml").read_text())
    config["scrape_configs"][0] |= yaml.safe_load(fenced("yaml", section("Watch"))[0])
    folder = tmp_path / "monitoring"
    folder.mkdir()
    (tmp_path / "ca.pem").touch()
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    (folder / "rules.yaml").write_text((SHIPPED / "rules.yaml").read_text())

    checked = subprocess.run(
        [str(PROMTOOL), "check", "config", folder / "prometheus.yaml"], capture_output=True, text=True
    )

    assert checked.returncode == 0, checked.stderr


def test_docker_builds_a_target_and_mounts_the_folders_of_the_image() -> None:
    build, run = (shlex.split(line) for line in fenced("sh", section("Container"))[0].splitlines())
    stages = read_dockerfile((ROOT / "Dockerfile").read_text())
    mounts = [value.split(":")[1] for option, value in pairwise(run) if option == "-v"]

    assert build[build.index("--target") + 1] in stages
    assert mounts == ["/srv/offramp/models", "/srv/offramp/state"]
    assert build[build.index("-t") + 1] == run[-1]


@pytest.mark.parametrize("page", ["operations.md", "serving.md"])
def test_docker_publishes_its_ports_on_loopback_only(page: str) -> None:
    (command,) = re.findall(r"^docker run (?:.*\\\n)*.*", (ROOT / "docs" / page).read_text(), re.MULTILINE)

    assert re.findall(r"-p (\S+)", command) == ["127.0.0.1:8001:8001", "127.0.0.1:8002:8002"]


def test_kubectl_applies_the_manifests_and_runs_a_known_command() -> None:
    apply, execute = (shlex.split(line) for line in fenced("sh", section("Kubernetes"))[0].splitlines())
    folder = ROOT / apply[-1].removeprefix("~/offramp/")
    namespace, _, target, _, program, *words = execute[2:]
    manifests = "".join(path.read_text() for path in folder.glob("*.yaml"))

    assert (folder / "kustomization.yaml").exists()
    assert (program, f"namespace: {namespace}" in manifests) == ("offramp", True)
    assert target == "deploy/offramp"
    assert str(_parser("offramp").parse_args(words).state_dir) == "state"
