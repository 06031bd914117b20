"""The report in a browser: readable on a phone, with every section and table open."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.http.browser import CHROMIUM, Page, open_page
from tests.serving.live_server import eventually

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.fixture(scope="module")
def report(page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_page(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def show(tab: Page, report: Path, width: int) -> None:
    tab.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    tab.send("Page.navigate", url=report.as_uri())
    assert eventually(lambda: tab.evaluate("document.querySelectorAll('section').length > 5"))
    assert eventually(lambda: tab.evaluate("document.readyState") == "complete")
    tab.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")


@pytest.mark.parametrize("width", [360, 500, 1200])
def test_the_report_needs_no_sideways_scrolling(tab: Page, report: Path, width: int) -> None:
    show(tab, report, width)

    assert tab.evaluate("innerWidth") == width
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_on_a_phone_no_table_and_no_plot_is_wider_than_its_box(tab: Page, report: Path) -> None:
    show(tab, report, 500)

    boxes = "[...document.querySelectorAll('.scroll, .plot')]"
    assert tab.evaluate(f"{boxes}.filter(box => box.scrollWidth > box.clientWidth).length") == 0


def test_on_a_phone_every_cell_has_the_name_of_its_column(tab: Page, report: Path) -> None:
    show(tab, report, 500)

    names = tab.evaluate(
        "[...document.querySelectorAll('td')].map(cell => getComputedStyle(cell, '::before').content)"
    )
    assert names
    assert [name for name in names if name in {"none", '""'}] == []


@pytest.mark.parametrize(("width", "shown"), [(500, "narrow"), (1200, "wide")])
def test_one_of_the_two_sizes_of_a_plot_is_shown(tab: Page, report: Path, width: int, shown: str) -> None:
    show(tab, report, width)

    visible = tab.evaluate(
        "[...document.querySelectorAll('.plot > div')]"
        ".filter(part => part.offsetWidth).map(part => part.className)"
    )
    assert set(visible) == {shown}
