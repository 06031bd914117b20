"""Recipes with `exits.train = "frozen"`: the backbone is trained first, then exits are attached."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from serving.repository.manifest import Manifest
from serving.repository.repository import read_version
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner, stage_files
from tests.training.never_trains import NeverTrains
from training.attach import frozen
from training.attach.frozen import _RunProgress, rows_of_recipe
from training.born_again.checkpoint import WEIGHTS_FILE, EpochResult
from training.born_again.progress import CombinedProgress, ProgressBar
from training.data.splits import Dataset, Split
from training.exits.evaluate import evaluate
from training.pipeline.folder import RunFolder, RunRecord
from training.pipeline.from_recipe import make_backbone, train
from training.pipeline.run import run
from training.recipe.recipe import Recipe
from training.recipe.settings import ExitsSection
from training.release.exported_stage import LOGIT_TOLERANCE


class Interrupted(Exception):
    """Replaces Ctrl-C."""


class StopsAt(ProgressBar):
    """Quiet progress that interrupts a run at a given line, or after an epoch."""

    def __init__(self, moment: str) -> None:
        super().__init__(quiet=True)
        self._moment = moment

    def epoch(self, epochs_done: int, epoch: EpochResult) -> None:
        super().epoch(epochs_done, epoch)
        self._stop_at("epoch")

    def say(self, line: str) -> None:
        self._stop_at(line)

    def _stop_at(self, moment: str) -> None:
        if self._moment == moment:
            raise Interrupted


@dataclass(frozen=True)
class RunPaths:
    """A run's output folder and its model repository."""

    root: Path

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.root / "run")

    @property
    def version(self) -> Path:
        return self.root / "models" / "tiny" / "1"

    @property
    def manifest(self) -> Manifest:
        return read_version(self.version).manifest

    @property
    def record(self) -> RunRecord:
        record = self.folder.read_record()
        assert record is not None
        return record

    def start(self, recipe: Recipe, progress: ProgressBar, *, resume: bool = False) -> None:
        run(recipe, "tiny", self.folder, self.root / "models", progress, resume=resume)

    def logits(self, split: Split) -> np.ndarray:
        """Run a split through the published stages: logits_ENK."""
        version = read_version(self.version)
        runner = StageRunner(stage_files(version), version.manifest.inputs, CPU, slots=64)
        return evaluate(runner, split.images_NCHW)


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Recipe) -> Recipe:
    two_exits = tiny_recipe.architecture.model_copy(update={"exits": 2})
    return tiny_recipe.model_copy(update={"exits": ExitsSection(train="frozen"), "architecture": two_exits})


@pytest.fixture(scope="module")
def finished(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    paths = RunPaths(tmp_path_factory.mktemp("frozen"))
    paths.start(recipe, ProgressBar(quiet=True))
    return paths


def test_the_final_exit_answers_as_the_trained_backbone(
    finished: RunPaths, recipe: Recipe, digits: Dataset
) -> None:
    chosen = finished.folder.generation_folder(finished.record.chosen_generation)
    network = make_backbone(recipe, digits)
    network.load_state_dict(torch.load(chosen / WEIGHTS_FILE, weights_only=True)["state"]["network"])
    with torch.no_grad():
        expected_NK = network.eval()(torch.from_numpy(digits.test.images_NCHW))[-1].numpy()
    got_NK = finished.logits(digits.test)[-1]
    np.testing.assert_allclose(got_NK, expected_NK, atol=LOGIT_TOLERANCE * np.abs(expected_NK).max())


def test_the_backbone_is_trained_as_a_network_without_early_exits(
    finished: RunPaths, recipe: Recipe, digits: Dataset, tmp_path: Path
) -> None:
    joint = recipe.model_copy(update={"exits": ExitsSection()})
    run_folder = RunFolder(tmp_path)
    run_folder.begin(joint, digits.digests)
    for generation in train(joint, digits, run_folder, ProgressBar(quiet=True), make=make_backbone):
        weights = torch.load(
            finished.folder.generation_folder(generation.number) / WEIGHTS_FILE, weights_only=True
        )
        expected, got = generation.network.state_dict(), weights["state"]["network"]
        assert [name for name in expected if not torch.equal(expected[name], got[name])] == []


def test_the_figures_of_early_exits_are_those_of_the_published_stages(
    finished: RunPaths, digits: Dataset
) -> None:
    exits = finished.manifest.exits
    assert len(exits) > 1
    accuracy_E = (finished.logits(digits.test).argmax(axis=2) == digits.test.truth_N).mean(axis=1)
    assert [entry.accuracy for entry in exits] == pytest.approx(accuracy_E.tolist())
    assert {(entry.split, entry.n) for entry in exits} == {("test", len(digits.test))}


def test_the_version_is_an_ordinary_version_of_its_recipe(finished: RunPaths, recipe: Recipe) -> None:
    manifest = finished.manifest
    assert manifest.provenance.recipe == recipe.model_dump(mode="json")
    assert manifest.provenance.attached_to is None
    assert list(manifest.operating_points) == ["exact", "balanced", "fast"]
    certificate = manifest.operating_points["balanced"].certificate
    assert certificate is not None
    assert certificate.n == 200
    best = finished.record.generations[finished.record.chosen_generation]
    assert best.operating_points == manifest.operating_points
    assert finished.folder.report_path.exists()


def test_all_generations_have_the_same_cuts(finished: RunPaths) -> None:
    first, second = (finished.folder.generation_folder(number) for number in range(2))
    stages = [path.name for path in sorted(first.glob("stage-*.onnx"))]
    assert stages == [path.name for path in sorted(second.glob("stage-*.onnx"))]
    assert {len(generation.exits) for generation in finished.record.generations} == {len(stages)}
    assert len(finished.record.ensemble.accuracy) == len(stages)


def test_the_feature_cache_is_removed(finished: RunPaths) -> None:
    assert list(finished.folder.path.rglob("features")) == []


def test_a_run_interrupted_in_training_and_in_attaching_publishes_the_same_stages(
    finished: RunPaths, recipe: Recipe, tmp_path: Path
) -> None:
    paths = RunPaths(tmp_path)
    with pytest.raises(Interrupted):
        paths.start(recipe, StopsAt("epoch"))
    with pytest.raises(Interrupted):
        paths.start(recipe, StopsAt("attaching early exits to generation 1"), resume=True)
    assert not paths.version.exists()

    paths.start(recipe, NeverTrains(), resume=True)

    assert without_its_run(paths.manifest) == without_its_run(finished.manifest)


def without_its_run(manifest: Manifest) -> Manifest:
    provenance = manifest.provenance.model_copy(update={"run_id": None})
    return manifest.model_copy(update={"created": "", "provenance": provenance})


def test_heads_train_on_train_rows_and_exits_are_chosen_on_temperature_and_tune(digits: Dataset) -> None:
    rows, splits = rows_of_recipe(digits, seed=0)
    images = rows.inputs["image"]
    for row_N, split in (
        (splits.heads, digits.train),
        (splits.temperature, digits.temperature),
        (splits.tune, digits.tune),
    ):
        np.testing.assert_array_equal(images[row_N], split.images_NCHW)
    assert (len(splits.certify), len(splits.test)) == (0, 0)
    assert len(rows) == len(digits.train) + len(digits.temperature) + len(digits.tune)


def test_the_number_of_head_rows_is_limited(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "MOST_HEAD_ROWS", 300)
    rows, splits = rows_of_recipe(digits, seed=0)
    other, _ = rows_of_recipe(digits, seed=1)
    assert len(splits.heads) == 300
    train = {image.tobytes() for image in digits.train.images_NCHW}
    assert all(image.tobytes() in train for image in rows.inputs["image"][splits.heads])
    assert rows.inputs_digest != other.inputs_digest


def test_a_recipe_may_load_other_splits_without_changing_its_heads(recipe: Recipe) -> None:
    dataset = recipe.dataset.load()
    changed = replace(dataset, certify=dataset.tune, test=dataset.tune)
    assert rows_of_recipe(changed, 0)[0].digest == rows_of_recipe(dataset, 0)[0].digest


def test_a_quiet_run_shows_no_bars(capsys: pytest.CaptureFixture[str]) -> None:
    progress = _RunProgress(CombinedProgress(ProgressBar(quiet=True)))
    with progress.bar("features", 10, "row") as advance:
        advance(10)
    assert capsys.readouterr().err == ""
