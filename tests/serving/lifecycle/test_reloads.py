"""A reload frees sessions, slabs and versions at once, and metric series after one scrape."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from serving.client import Client
from serving.metrics.instruments import MAX_UNLOADED
from tests.serving import scripted_model
from tests.serving.live_server import LiveServer
from tests.serving.scripted_model import EASY, HARD, edit

ROWS = np.stack([EASY, HARD])


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Disable the garbage collector, which would free objects in reference cycles."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def reload(server: LiveServer, root: Path, version: int) -> None:
    """Answer a call, then replace the version that answered it."""
    with Client(server.address) as client:
        client.predict("scripted", ROWS)
    scripted_model.publish(root, version=version)
    server.rescan()


def sessions() -> int:
    """Count the sessions that are open in this process."""
    return sum(type(each) is onnxruntime.InferenceSession for each in gc.get_objects())


def test_a_closed_version_is_freed_at_once(server: LiveServer, root: Path, no_collection: None) -> None:
    version = server.version()
    held = [version, version._runner, version._runner._slabs[0][0], version._blocks[0][0], version.monitor]
    gone = [weakref.ref(each) for each in (*held, version.manifest)]
    held.clear()
    del version

    reload(server, root, 2)

    assert [type(each()) for each in gone] == [type(None)] * 6


def test_reloads_leave_no_session_open(server: LiveServer, root: Path, no_collection: None) -> None:
    before = sessions()

    for version in range(2, 6):
        reload(server, root, version)

    assert sessions() == before


def test_a_closed_version_has_no_open_session_even_if_it_is_referenced(
    server: LiveServer, root: Path
) -> None:
    before, held = sessions(), server.version()

    reload(server, root, 2)

    assert not held.ready
    assert sessions() == before


def test_a_version_that_is_refused_leaves_no_session_open(
    server: LiveServer, root: Path, no_collection: None
) -> None:
    before = sessions()
    edit(scripted_model.publish(root, version=2), labels=["ant", "bee"])

    server.rescan()

    assert sessions() == before


def test_one_more_scrape_shows_the_last_counts_of_a_closed_version(server: LiveServer, root: Path) -> None:
    reload(server, root, 2)

    last, after = server.scrape(), server.scrape()

    answered = 'offramp_requests_total{model="scripted",outcome="ok",version="1"} 1.0'
    assert answered in last
    assert 'version="1"' not in after
    assert 'version="2"' in after


def test_a_scrape_of_a_few_metrics_is_not_the_last_one(server: LiveServer, root: Path) -> None:
    reload(server, root, 2)

    server.scrape("?name[]=offramp_rows_total")

    assert 'version="1"' in server.scrape()


def test_without_scrapes_the_number_of_series_is_limited(server: LiveServer, root: Path) -> None:
    reloads = MAX_UNLOADED + 3
    for version in range(2, 2 + reloads):
        reload(server, root, version)

    page = server.scrape()

    shown = [version for version in range(1, 2 + reloads) if f'version="{version}"' in page]
    assert shown == list(range(4, 2 + reloads))


def test_a_version_that_is_loaded_again_continues_its_counts(server: LiveServer, root: Path) -> None:
    reload(server, root, 2)
    (root / "scripted" / "2").rename(root / "aside")
    server.rescan()
    with Client(server.address) as client:
        assert client.predict("scripted", ROWS).model_version == "1"

    page = [server.scrape() for _ in range(2)][-1]

    assert 'offramp_requests_total{model="scripted",outcome="ok",version="1"} 2.0' in page
    assert 'version="2"' not in page


def test_a_version_that_is_refused_leaves_no_series(server: LiveServer, root: Path) -> None:
    edit(scripted_model.publish(root, version=2), labels=["ant", "bee"])
    server.rescan()

    server.scrape()

    assert 'version="2"' not in server.scrape()
