"""SIGHUP at any time: also before the ports are open."""

import asyncio
from pathlib import Path

import pytest

from serving.lifecycle.security_refresh import SecurityRefresh
from serving.lifecycle.server import Address, Server
from tests.serving.live_server import HOST

pytestmark = pytest.mark.asyncio


async def test_a_hangup_while_the_server_loads_is_accepted(models: Path) -> None:
    server = Server(models, Address(HOST, 0, 0), device="cpu")

    server._reload()


async def test_every_added_file_is_refreshed_at_intervals_until_the_stop() -> None:
    counts = {"tokens": 0, "certificate": 0}
    twice = asyncio.Event()

    def count(name: str) -> None:
        counts[name] += 1
        if counts["certificate"] == 2:
            twice.set()

    refresh = SecurityRefresh(0.001, lambda: count("tokens"))
    refresh.add(lambda: count("certificate"))
    refresh.start()
    await asyncio.wait_for(twice.wait(), 20)
    refresh.stop()

    assert counts["tokens"] == counts["certificate"] == 2
