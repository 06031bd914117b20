"""Tests for the published versions of the examples: which test split is refused, with the reason."""

from dataclasses import replace
from pathlib import Path

import pytest

from examples.server import held_out, published
from serving.repository.repository import PublishedVersion, read_version
from tests.serving import token_model


def test_a_model_that_is_not_published_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        SystemExit, match=r"^expected a model in models/: .*fashion-mnist.*; got nothing-such"
    ):
        published("nothing-such")


def test_a_version_without_a_recipe_is_refused_with_the_reason(tmp_path: Path) -> None:
    version = read_version(token_model.publish(tmp_path))

    with pytest.raises(SystemExit, match=r"tokens/1: expected a version that a recipe trained, got"):
        held_out(version)


def test_a_dataset_other_than_the_versions_own_is_refused(released: PublishedVersion) -> None:
    provenance = released.manifest.provenance
    digits = {"name": "digits", "test_rows": 360}
    other = released.manifest.model_copy(
        update={"provenance": provenance.model_copy(update={"recipe": {"dataset": digits}})}
    )

    with pytest.raises(SystemExit, match=r'^dataset "digits": digest: expected [0-9a-f]{64} as .*, got'):
        held_out(replace(released, manifest=other))
