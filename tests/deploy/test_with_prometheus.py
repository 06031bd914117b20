"""The dashboard's queries and the alerts, in a real Prometheus that scrapes a real server under traffic."""

import re
from collections.abc import Iterator

import pytest

from tests.deploy.busy_server import BusyServer
from tests.deploy.prometheus_process import PrometheusProcess, needs_prometheus
from tests.deploy.test_dashboard import PANELS, SHIPPED
from tests.deploy.test_rules import RULES
from tests.serving.live_server import eventually

pytestmark = needs_prometheus

VARIABLES = {"$__rate_interval": "1m", "$instance": ".*", "$model": ".*"}


@pytest.fixture(scope="module")
def prometheus(server: BusyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusProcess]:
    """Prometheus after it has scraped the server before and after more traffic, so that rates are known."""
    folder = tmp_path_factory.mktemp("prometheus")
    with PrometheusProcess(folder, server.process.metrics_address) as prometheus:
        _await_scrape(prometheus, server)
        server.send_rows()
        _await_scrape(prometheus, server)
        yield prometheus


def _await_scrape(prometheus: PrometheusProcess, server: BusyServer) -> None:
    """Wait until Prometheus has scraped the current number of requests."""
    requests = server.process.metric("offramp_requests_total")
    assert eventually(lambda: prometheus.values("sum(offramp_requests_total)") == [requests])


def substituted(text: str) -> str:
    """Replace the variables of a dashboard, as Grafana does."""
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    assert "$" not in text
    return text


@pytest.mark.parametrize(
    "expression",
    [
        pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
        for panel in PANELS
        for target in panel["targets"]
    ],
)
def test_a_query_of_the_dashboard_returns_data(expression: str, prometheus: PrometheusProcess) -> None:
    assert eventually(lambda: bool(prometheus.values(substituted(expression)))), expression


@pytest.mark.parametrize("variable", ["instance", "model"])
def test_a_variable_has_values(variable: str, server: BusyServer, prometheus: PrometheusProcess) -> None:
    query = next(each["query"]["query"] for each in SHIPPED["templating"]["list"] if each["name"] == variable)
    call = re.fullmatch(r"label_values\((.+), (\w+)\)", substituted(query))
    assert call

    values = prometheus.get(f"label/{call[2]}/values", **{"match[]": call[1]})

    assert (
        values
        == {
            "instance": [server.process.metrics_address],
            "model": ["fashion-mnist", "scripted"],
        }[variable]
    )


FIRING = {
    "OfframpCertificateRevoked",
    "OfframpDrift",
    "OfframpErrors",
    "OfframpShadowRowsMissing",
    "OfframpVersionRefused",
}
QUIET = {
    "OfframpDown",
    "OfframpLogLinesDropped",
    "OfframpModelNotReady",
    "OfframpNoModel",
    "OfframpOverloaded",
    "OfframpRevocationsUnwritten",
}


def firing(prometheus: PrometheusProcess) -> set[str]:
    return {
        alert["labels"]["alertname"]
        for alert in prometheus.get("alerts")["alerts"]
        if alert["state"] == "firing"
    }


def test_the_alerts_of_this_traffic_fire_and_others_do_not(prometheus: PrometheusProcess) -> None:
    assert eventually(lambda: firing(prometheus) >= FIRING), firing(prometheus)
    assert not firing(prometheus) & QUIET


def test_every_rule_is_evaluated_without_an_error(prometheus: PrometheusProcess) -> None:
    def health() -> list[str]:
        return [rule["health"] for rule in prometheus.get("rules")["groups"][0]["rules"]]

    assert eventually(lambda: "unknown" not in health())
    assert health() == ["ok"] * len(RULES)
