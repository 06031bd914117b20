"""Fixtures: a server under traffic, shared by the tests of a module."""

from collections.abc import Iterator

import pytest

from tests.deploy.busy_server import BusyServer, busy_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BusyServer]:
    with busy_server(tmp_path_factory.mktemp("server")) as server:
        yield server
