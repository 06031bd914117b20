"""Tests for the answers of a served model: their order, their table, and the lines on certificates."""

from dataclasses import replace

import numpy as np
import pytest

from examples import fashion_mnist_500
from examples.answers import Answers, ask, certificates, compare_with_manifest, table
from serving.client import Client
from serving.repository.manifest import Risk
from serving.repository.repository import PublishedVersion

IMAGES = fashion_mnist_500.load().images_NCHW[:40]


@pytest.mark.parametrize("callers", [1, 8])
def test_answers_are_in_the_order_of_the_images(
    released: PublishedVersion, client: Client, callers: int
) -> None:
    manifest = released.manifest
    point = manifest.default_operating_point
    one_request = client.predict(manifest.name, IMAGES, operating_point=point)

    answers = ask(client, manifest, IMAGES, point, callers)

    assert answers.label_N.tolist() == one_request.label_N.tolist()
    assert answers.exit_N.tolist() == one_request.exit_N.tolist()
    assert len(answers.milliseconds_N) == len(IMAGES)


def answers_of(labels: list[int], exits: list[int]) -> Answers:
    return Answers(np.array(labels), np.array(exits), np.ones(len(labels)), seconds=1.0)


def test_the_table_has_accuracy_disagreement_exit_shares_and_cost(released: PublishedVersion) -> None:
    manifest = released.manifest
    final = len(manifest.stages) - 1
    exact = answers_of([0, 1, 2, 3], [final] * 4)
    balanced = answers_of([0, 1, 3, 3], [0, 0, final, 0])

    title, _, line = table(manifest, np.array([0, 1, 2, 4]), {"exact": exact, "balanced": balanced})

    first_cost = manifest.multiply_adds[0] / manifest.multiply_adds[-1]
    assert f"left at exit {' / '.join(str(number) for number in range(final + 1))}" in title
    assert line.startswith("balanced   50.0% [")
    assert " 25.0% [" in line
    assert f"75.0% / {'0.0% / ' * (final - 1)}25.0%" in line
    assert line.endswith(f" {(3 * first_cost + 1) / 4:.1%}")


def test_rows_that_differ_from_the_manifests_figures_are_counted(released: PublishedVersion) -> None:
    manifest = released.manifest
    point = manifest.operating_points["balanced"]
    assert point.accuracy is not None
    counts = [round(share * point.n) for share in point.exit_shares]
    exit_N = np.repeat(np.arange(len(counts)), counts)
    label_N = (np.arange(point.n) >= round(point.accuracy * point.n)).astype(int)
    truth_N = np.zeros(point.n, dtype=np.int64)
    equal = Answers(label_N, exit_N, np.ones(point.n), seconds=1.0)
    one_wrong_more = replace(equal, label_N=np.concatenate([[1], label_N[1:]]))

    assert compare_with_manifest(manifest, truth_N, {"balanced": equal}).endswith("equal the manifest's")
    assert "in 1 rows" in compare_with_manifest(manifest, truth_N, {"balanced": one_wrong_more})


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
