"""The alerts: promtool accepts them, they use metrics that the server has, and each is documented."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.busy_server import BusyServer
from tests.deploy.prometheus_process import PROMTOOL, SHIPPED, needs_promtool
from tests.deploy.promql import TARGET_LABELS, names, unknown_names

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
RULES: list[dict[str, Any]] = yaml.safe_load((SHIPPED / "rules.yaml").read_text())["groups"][0]["rules"]
ALERTS = [rule for rule in RULES if "alert" in rule]
CASES = yaml.safe_load((SHIPPED / "rules_test.yaml").read_text())["tests"]

by_name = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [("test", "rules", "rules_test.yaml"), ("check", "config", "prometheus.yaml")],
    ids=["rules", "configuration"],
)
def test_promtool_accepts(arguments: tuple[str, ...]) -> None:
    ran = subprocess.run(
        [str(PROMTOOL), *arguments], cwd=SHIPPED, capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def known(server: BusyServer) -> dict[str, set[str]]:
    """The labels of each metric that rules may use: of the server, of Prometheus, and recorded."""
    recorded = {rule["record"]: set(names(rule["expr"]).grouped) for rule in RULES if "record" in rule}
    return server.labels() | {"up": set()} | recorded


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert", "recorded"))
def test_a_rule_uses_metrics_and_labels_of_the_server(
    rule: dict[str, Any], known: dict[str, set[str]]
) -> None:
    assert unknown_names(rule["expr"], known) == set()


@by_name
def test_a_description_names_the_instance_and_the_model(
    alert: dict[str, Any], known: dict[str, set[str]]
) -> None:
    labels = TARGET_LABELS.union(*(known[metric] for metric in names(alert["expr"]).metrics))

    used = set(re.findall(r"\$labels\.(\w+)", alert["annotations"]["description"]))

    needed = {"instance", "model"} if "model" in labels else {"instance"}
    if alert["alert"] == "OfframpNoModel":
        needed = {"instance"}  # it is about all models of a server
    assert needed <= used <= labels


@by_name
def test_an_alert_has_a_severity_a_summary_and_a_runbook(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    assert alert["annotations"]["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"


@by_name
def test_an_alert_fires_in_one_test_case_and_not_in_another(alert: dict[str, Any]) -> None:
    checks = [
        check for case in CASES for check in case["alert_rule_test"] if check["alertname"] == alert["alert"]
    ]

    assert {bool(check.get("exp_alerts")) for check in checks} == {True, False}


def test_each_alert_has_a_paragraph_and_each_paragraph_an_alert() -> None:
    section = OPERATIONS.split("\n## Alerts\n")[1].split("\n## ")[0]

    assert re.findall(r"^### (.+)$", section, re.MULTILINE) == [alert["alert"] for alert in ALERTS]
    for paragraph in section.split("\n### ")[1:]:
        assert re.findall(r"\*\*(.+?)\*\*", paragraph) == ["Meaning.", "Look at", "Do."], paragraph
