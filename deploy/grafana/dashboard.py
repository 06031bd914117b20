"""Write offramp.json, the Grafana dashboard, from the rows in traffic_rows.py and monitor_rows.py.

`make dashboard` runs `python -m deploy.grafana.dashboard`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.grafana.monitor_rows import MONITOR_ROWS
from deploy.grafana.panel import Panel, Query
from deploy.grafana.traffic_rows import TRAFFIC_ROWS

FILE = Path(__file__).parent / "offramp.json"
COLUMNS = 24
HEIGHTS = {"stat": 4, "timeseries": 8, "state-timeline": 6, "table": 8}
"""Height of each kind of panel, in cells of 30 pixels."""
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}

Json = dict[str, Any]


def dashboard() -> Json:
    """Return the dashboard in Grafana's JSON model."""
    return {
        "uid": "offramp",
        "title": "Offramp",
        "description": "Servers of multi-exit models. The alerts are explained in docs/operations.md.",
        "tags": ["offramp"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one cursor on all panels
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_data_source_variable(), *_label_variables()]},
        "annotations": {"list": []},
        "links": [],
        "panels": list(_panels()),
    }


def _data_source_variable() -> Json:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _label_variables() -> Iterator[Json]:
    """Yield the variables whose values come from labels. `.*` also matches requests of no model."""
    queries = {
        "instance": "label_values(offramp_build_info, instance)",
        "model": 'label_values(offramp_model_ready{instance=~"$instance"}, model)',
    }
    for name, query in queries.items():
        yield {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": DATA_SOURCE,
            "query": {"qryType": 1, "query": query, "refId": name},  # 1: label values
            "refresh": 2,  # when the time range changes
            "sort": 1,  # by name
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }


def _panels() -> Iterator[Json]:
    """Yield the rows and their panels from left to right and from top to bottom."""
    number = top = 0
    for row in (*TRAFFIC_ROWS, *MONITOR_ROWS):
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1},
            "panels": [],
        }
        top += 1
        left = line_height = 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                left, top, line_height = 0, top + line_height, 0
            number += 1
            height = HEIGHTS[panel.kind]
            position = {"x": left, "y": top, "w": panel.width, "h": height}
            yield {"id": number, "gridPos": position, **_panel(panel)}
            left += panel.width
            line_height = max(line_height, height)
        top += line_height


def _panel(panel: Panel) -> Json:
    defaults: Json = {"unit": panel.unit, "custom": {}}
    if panel.maximum is not None:
        defaults |= {"min": 0, "max": panel.maximum}
    if panel.states:
        defaults["mappings"] = [_value_mapping(panel)]
    if panel.limits:
        first = "red" if panel.limits[0][0] > 0 else panel.limits[0][1]
        steps = [(None, first), *panel.limits]
        defaults["thresholds"] = {
            "mode": "absolute",
            "steps": [{"value": value, "color": color} for value, color in steps],
        }
        defaults["color"] = {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"}
    if panel.kind == "timeseries":
        defaults["custom"] = {"fillOpacity": 0, "showPoints": "never", "spanNulls": False}
        if panel.limits:
            defaults["custom"]["thresholdsStyle"] = {"mode": "dashed"}
        if panel.logarithmic:
            defaults["custom"]["scaleDistribution"] = {"type": "log", "log": 10}
    built = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATA_SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "targets": [
            _target(panel, query, chr(ord("A") + number)) for number, query in enumerate(panel.queries)
        ],
    }
    if panel.kind == "table":
        built["transformations"] = [
            {
                "id": "organize",
                "options": {"excludeByName": {"Time": True, "__name__": True, "job": True}},
            }
        ]
    return built


def _value_mapping(panel: Panel) -> Json:
    names = {
        str(value): {"text": name, "color": color, "index": number}
        for number, (value, name, color) in enumerate(panel.states)
    }
    return {"type": "value", "options": names}


def _options(panel: Panel) -> Json:
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    if panel.kind == "state-timeline":
        return {"showValue": "auto", "mergeValues": True, "legend": {"showLegend": False}}
    if panel.kind == "table":
        return {"showHeader": True}
    return {
        "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom"},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _target(panel: Panel, query: Query, letter: str) -> Json:
    target: Json = {
        "refId": letter,
        "datasource": DATA_SOURCE,
        "expr": query.expression,
        "legendFormat": query.legend,
    }
    return target | ({"format": "table", "instant": True} if panel.kind == "table" else {"range": True})


def text() -> str:
    """Return the content of the file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
