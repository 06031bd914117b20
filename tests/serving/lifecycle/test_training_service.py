"""The warnings of a server that offers training."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from serving.api.places import side_places
from serving.config import TrainingSettings
from serving.lifecycle.training_service import TrainingOffer, TrainingService
from serving.metrics.instruments import Metrics
from tests.serving.jobs.training_jobs import STAND_IN, no_rescan

pytestmark = pytest.mark.asyncio


async def warnings(tmp_path: Path, host: str, *, offered: bool = True) -> list[dict[str, object]]:
    """Open the training of a server at `host`, and return the logged warnings."""
    offer = TrainingOffer(tmp_path / "jobs", STAND_IN) if offered else None
    metrics = Metrics(CollectorRegistry())
    service = TrainingService(offer, tmp_path / "models", TrainingSettings(), metrics, no_rescan)
    with capture_logs() as logs:
        service.open(host, side_places())
    await service.close(5)
    return [dict(entry) for entry in logs if entry["log_level"] == "warning"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", ""])  # noqa: S104 - nothing listens
async def test_training_beyond_loopback_is_one_warning(tmp_path: Path, host: str) -> None:
    (warning,) = await warnings(tmp_path, host)

    assert warning["event"] == "training is exposed: whoever reaches this address may start jobs"
    assert warning["host"] == host


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
async def test_training_on_loopback_is_no_warning(tmp_path: Path, host: str) -> None:
    assert await warnings(tmp_path, host) == []


async def test_a_server_that_offers_no_training_warns_of_none(tmp_path: Path) -> None:
    assert await warnings(tmp_path, "0.0.0.0", offered=False) == []  # noqa: S104 - nothing listens
