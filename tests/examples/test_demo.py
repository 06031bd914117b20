"""Tests for the demo: its images, and what it prints and draws for a model."""

from pathlib import Path

import numpy as np
import pytest

from examples import fashion_mnist_500
from examples.demo import RELEASED, sample, show_answers, show_gain
from examples.fashion_mnist_500 import LabelledImages
from serving.client import Client
from serving.repository.repository import PublishedVersion


def test_the_released_model_is_shown_on_the_images_of_the_repository(released: PublishedVersion) -> None:
    assert released.manifest.name == RELEASED
    assert np.array_equal(sample(released).images_NCHW, fashion_mnist_500.load().images_NCHW)


def test_it_prints_answers_and_speed_and_draws_the_exits(
    released: PublishedVersion,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest, images = released.manifest, fashion_mnist_500.load()
    few = LabelledImages(images.images_NCHW[:20], images.truth_N[:20])
    point = manifest.default_operating_point
    monkeypatch.chdir(tmp_path)

    given = show_answers(client, manifest, few)
    show_gain(client, manifest, few, given)

    printed = capsys.readouterr().out
    accuracy = (given[point].label_N == few.truth_N).mean()
    assert list(given) == list(manifest.operating_points)
    assert f"{manifest.name} version {manifest.version}: {len(manifest.stages)} exits" in printed
    assert printed.splitlines()[-1].startswith(f"{point} answers ")
    assert f"accuracy {accuracy:.1%} against " in printed.splitlines()[-1]
    assert (tmp_path / "runs" / "demo" / f"{manifest.name}.svg").read_text().startswith("<svg ")
