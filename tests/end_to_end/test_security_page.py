"""The commands of docs/security.md that set up TLS and tokens, run as they stand there."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from serving.client import Client, Tls
from serving.errors import Unauthenticated
from tests.end_to_end.server_process import ServerProcess
from tests.serving import scripted_model

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
OFFRAMP = f"{shlex.quote(sys.executable)} -m offramp"


def blocks() -> list[str]:
    """Return the code blocks of the section on TLS and tokens."""
    section = PAGE.read_text().split("## TLS and tokens")[1].split("\n## ")[0]
    return re.findall(r"```\w*\n(.*?)```", section, re.DOTALL)


def run(command: str, folder: Path) -> str:
    """Run a command of the page as a user whose new files are readable by all users; return its stdout."""
    command = re.sub(r"(^|; )offramp ", rf"\1{OFFRAMP} ", command)
    finished = subprocess.run(  # noqa: S602
        command, cwd=folder, shell=True, check=True, capture_output=True, text=True, umask=0o022
    )
    return finished.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which all commands before the server's start were run."""
    setup, settings, _ = blocks()
    *commands, serve = setup.splitlines()
    assert (len(commands), serve) == (4, "offramp serve --config secure.toml")
    (tmp_path / "secure.toml").write_text(settings)
    for command in commands:
        run(command, tmp_path)
    return tmp_path


def test_the_commands_of_the_page_secure_a_server(folder: Path) -> None:
    scripted_model.publish(folder / "models")
    files = tomllib.loads((folder / "secure.toml").read_text())["security"]
    config = {"security": {key: str(folder / name) for key, name in files.items()}}
    health = blocks()[2]
    with ServerProcess(folder / "models", config=config) as server:
        address = f"localhost:{server.address.rpartition(':')[2]}"
        tls, token = Tls(folder / "ca.pem"), (folder / "dashboard.token").read_text().strip()

        assert run(health.strip().replace("localhost:8001", address), folder) == "serving\n"
        with Client(address, tls=tls, token=token) as client:
            assert client.model("scripted").name == "scripted"
        with Client(address, tls=tls) as client, pytest.raises(Unauthenticated):
            client.model("scripted")


def test_only_the_owner_can_read_the_keys_and_the_token(folder: Path) -> None:
    for name in ("ca.key", "server.key", "dashboard.token"):
        assert (folder / name).stat().st_mode & 0o077 == 0, name


def test_a_secured_server_starts_with_the_file_of_the_page(folder: Path) -> None:
    command = f"{OFFRAMP} serve --config secure.toml --model-repository none"
    finished = subprocess.run(
        shlex.split(command), cwd=folder, check=False, capture_output=True, text=True, timeout=60
    )

    assert finished.returncode == 2
    assert "model repository none" in finished.stderr  # the files of [security] were found
