"""The dashboard is up to date and complete, and uses metrics that the server has."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

from deploy.grafana import dashboard
from tests.deploy.busy_server import BusyServer
from tests.deploy.promql import names, unknown_names

SHIPPED: dict[str, Any] = json.loads(dashboard.FILE.read_text())
PANELS: list[dict[str, Any]] = [panel for panel in SHIPPED["panels"] if panel["type"] != "row"]


def test_the_file_is_up_to_date() -> None:
    assert dashboard.FILE.read_text() == dashboard.text(), "run `make dashboard`"


def test_panels_have_their_own_number_title_and_letters() -> None:
    numbers = [panel["id"] for panel in SHIPPED["panels"]]
    titles = [panel["title"] for panel in SHIPPED["panels"] if panel["type"] != "row"]

    assert len(set(numbers)) == len(numbers)
    assert len(set(titles)) == len(titles)
    for panel in PANELS:
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_no_panel_covers_another() -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        position = panel["gridPos"]
        columns = range(position["x"], position["x"] + position["w"])
        lines = range(position["y"], position["y"] + position["h"])
        assert columns.stop <= dashboard.COLUMNS, panel["title"]
        return set(itertools.product(columns, lines))

    covered: set[tuple[int, int]] = set()
    for panel in SHIPPED["panels"]:
        assert not covered & cells(panel), panel["title"]
        covered |= cells(panel)


def test_each_panel_says_what_to_look_for_and_has_a_unit_and_legends() -> None:
    for panel in PANELS:
        assert len(panel["description"].split()) >= 8, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_every_query_uses_the_data_source_of_the_variable() -> None:
    def sources(part: object) -> Iterator[object]:
        if isinstance(part, dict):
            yield from (value for key, value in part.items() if key == "datasource")
            part = list(part.values())
        if isinstance(part, list):
            for inner in part:
                yield from sources(inner)

    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources(SHIPPED))
    assert all("datasource" in part for panel in PANELS for part in (panel, *panel["targets"]))
    assert [each["name"] for each in SHIPPED["templating"]["list"]] == ["datasource", "instance", "model"]


def test_the_queries_use_metrics_and_labels_of_the_server(server: BusyServer) -> None:
    known = server.labels() | {"up": set(), "ALERTS": {"alertname", "alertstate"}}
    for panel in PANELS:
        for target in panel["targets"]:
            assert unknown_names(target["expr"], known) == set(), panel["title"]


def test_the_dashboard_shows_every_metric_of_the_server(server: BusyServer) -> None:
    shown = {
        metric for panel in PANELS for target in panel["targets"] for metric in names(target["expr"]).metrics
    }
    parts_of_histograms = {name for name in server.labels() if name.endswith(("_sum", "_count", "_bucket"))}
    left_out = {
        "offramp_certificate_delta",  # 1 divided by the limit of the evidence
        "process_virtual_memory_bytes",  # says little about a Python process
    }

    assert set(server.labels()) - parts_of_histograms - shown == left_out
