"""The page in a browser: no sideways scrolling on a phone or a desk, readable in light and dark, live."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serving.client import Client
from tests.serving.http.browser import CHROMIUM, Page, open_page
from tests.serving.live_server import HOST, LiveServer, eventually
from tests.serving.scripted_model import EASY, HARD

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

ANSWERED = "document.querySelector('[data-figure=answered]').textContent"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_page(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[LiveServer]:
    with LiveServer(models) as started:
        with Client(started.address) as client:
            client.predict("scripted", np.stack([EASY, HARD]))
        yield started


def show(page: Page, server: LiveServer, width: int, *, dark: bool = False) -> None:
    page.send(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    page.send("Emulation.setEmulatedMedia", features=[scheme])
    page.send("Page.navigate", url=f"http://{HOST}:{server.server.metrics_port}/")
    assert eventually(lambda: page.evaluate("document.readyState") == "complete")
    assert eventually(lambda: page.evaluate("!!document.querySelector('[data-figure=answered]')"))


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_needs_no_sideways_scrolling(page: Page, server: LiveServer, width: int) -> None:
    show(page, server, width)

    assert page.evaluate("innerWidth") == width
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_every_figure_has_its_name_on_a_phone(page: Page, server: LiveServer) -> None:
    show(page, server, 400)

    cells = "[...document.querySelectorAll('td')]"
    named = page.evaluate(f"{cells}.map(cell => getComputedStyle(cell, '::before').content)")
    assert named
    assert all(name not in {"none", '""'} for name in named)


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_dark_on_light_or_light_on_dark(page: Page, server: LiveServer, *, dark: bool) -> None:
    show(page, server, 1280, dark=dark)

    style = "getComputedStyle(document.body)"
    brightness = [
        sum(page.evaluate(f"{style}.{name}.match(/\\d+/g).slice(0, 3).map(Number)"))
        for name in ("color", "backgroundColor")
    ]
    assert (brightness[0] > brightness[1]) is dark
    assert abs(brightness[0] - brightness[1]) > 450


def test_the_page_refreshes_itself(page: Page, server: LiveServer) -> None:
    show(page, server, 1280)
    before = int(page.evaluate(ANSWERED))

    with Client(server.address) as client:
        client.predict("scripted", np.stack([EASY]))

    assert eventually(lambda: int(page.evaluate(ANSWERED)) == before + 1)
