"""Tests for the demo: its lines on certificates, and the test split that it loads."""

from dataclasses import replace
from pathlib import Path

import pytest

from examples.demo import certificates, held_out
from serving.repository.manifest import Risk
from serving.repository.repository import PublishedVersion, read_version
from tests.serving import token_model

RELEASED = Path(__file__).parent.parent.parent / "models" / "fashion-mnist" / "2"


@pytest.fixture(scope="module")
def released() -> PublishedVersion:
    return read_version(RELEASED)


def test_each_certificate_is_described_by_its_risk_and_exact_has_none(released: PublishedVersion) -> None:
    points = dict(released.manifest.operating_points)
    certificate = points["fast"].certificate
    assert certificate is not None
    by_harm = certificate.model_copy(update={"risk": Risk.HARM})
    points["fast"] = points["fast"].model_copy(update={"certificate": by_harm})
    points["uncertified"] = points["fast"].model_copy(update={"certificate": None})

    balanced, fast, uncertified, explanation = certificates(
        released.manifest.model_copy(update={"operating_points": points})
    )

    assert balanced.startswith("balanced: certified: at most 1 % of answers differ from the full network's, ")
    assert fast.startswith(
        "fast: certified: at most 3 % of answers are wrong where the full network's is right, "
    )
    assert uncertified == "uncertified: UNCERTIFIED"
    assert explanation.endswith("on data like the certify split.")


def test_a_version_without_a_recipe_is_refused_with_the_reason(tmp_path: Path) -> None:
    version = read_version(token_model.publish(tmp_path))

    with pytest.raises(SystemExit, match=r"^demo: .*tokens/1: expected a version that a recipe trained, got"):
        held_out(version)


def test_a_dataset_other_than_the_versions_own_is_refused(
    released: PublishedVersion, capsys: pytest.CaptureFixture[str]
) -> None:
    provenance = released.manifest.provenance
    digits = {"name": "digits", "test_rows": 360}
    other = released.manifest.model_copy(
        update={"provenance": provenance.model_copy(update={"recipe": {"dataset": digits}})}
    )

    with pytest.raises(
        SystemExit, match=r'^demo: dataset "digits": digest: expected [0-9a-f]{64} as .*, got'
    ):
        held_out(replace(released, manifest=other))
