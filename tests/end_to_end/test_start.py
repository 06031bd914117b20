"""Tests for the start: the ready line, the addresses and the loaded modules."""

import socket
from pathlib import Path

import psutil
import pytest

from serving.client import Client
from tests.end_to_end.images import EASY
from tests.end_to_end.server_process import ServerProcess

MAX_RESIDENT_BYTES = 300_000_000


def test_the_ready_line_has_addresses_device_and_front_end(server: ServerProcess, front_end: str) -> None:
    assert server.ready_line.startswith("ready grpc=127.0.0.1:")
    assert server.ready_line.endswith(f" device=cpu front_end={front_end}\n")


def test_the_process_has_no_torch_and_needs_little_memory(server: ServerProcess) -> None:
    process = psutil.Process(server.pid)
    with Client(server.address) as client:
        client.predict("scripted", EASY)

    libraries = {Path(area.path).name for area in process.memory_maps()}

    assert not {name for name in libraries if "torch" in name}
    assert process.memory_info().rss < MAX_RESIDENT_BYTES


@pytest.mark.parametrize("host", ["::1", "::"])
def test_an_ipv6_address_is_listened_on(models: Path, host: str) -> None:
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    with ServerProcess(models, "--host", host, trials=True) as server:
        port = server.address.rpartition(":")[2]
        with Client(f"[::1]:{port}") as client:
            assert client.predict("scripted", EASY).label_N.tolist() == [1]
        assert server.address == f"[{host}]:{port}"
        assert server.front_end == ("native" if host == "::1" else "grpcio")


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_a_process_that_also_imports_tritonclient_answers(models: Path) -> None:
    program = (
        "-c",
        "import sys, tritonclient.grpc; from serving.commands.program import main; sys.exit(main())",
    )
    with ServerProcess(models, program=program, trials=True) as server, Client(server.address) as client:
        assert client.predict("scripted", EASY).label_N.tolist() == [1]
        assert server.stop()[0] == 0
