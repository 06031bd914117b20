"""A tiny run from recipe to published version, and runs that resume it."""

import html
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from serving.exits.policy import read_exit
from serving.repository.manifest import Risk
from serving.repository.repository import PublishedVersion, read_version
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner, stage_files
from tests.training.never_trains import NeverTrains, RecordingProgress
from training.born_again.checkpoint import WEIGHTS_FILE
from training.born_again.progress import ProgressBar
from training.data.splits import Dataset
from training.errors import RecipeError, RunError
from training.exits.evaluate import evaluate
from training.exits.goals import OperatingPointSection
from training.pipeline.folder import PLAN_FILE, RECIPE_FILE, RECORD_FILE, REPORT_FILE, RunFolder, RunRecord
from training.pipeline.from_recipe import make_network
from training.pipeline.plan import plan_lines
from training.pipeline.run import run
from training.recipe.recipe import Recipe


@dataclass(frozen=True)
class Run:
    """The folder of a run and its model repository."""

    root: Path
    lines: list[str] = field(default_factory=list)

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.root / "run")

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def record(self) -> RunRecord:
        record = self.folder.read_record()
        assert record is not None
        return record

    def start(self, recipe: Recipe, *, resume: bool, progress: ProgressBar) -> tuple[RunRecord, bool]:
        return run(recipe, "tiny", self.folder, self.models, progress, resume=resume)

    def published(self, version: int = 1) -> PublishedVersion:
        return read_version(self.models / "tiny" / str(version))


@pytest.fixture(scope="module")
def finished(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the tiny recipe once; tests that change something copy it."""
    progress = RecordingProgress()
    new_run = Run(tmp_path_factory.mktemp("finished"), progress.lines)
    new_run.start(tiny_recipe, resume=False, progress=progress)
    return new_run


@pytest.fixture
def new_run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_the_published_version_can_be_served(finished: Run, digits: Dataset) -> None:
    version = finished.published()
    runner = StageRunner(stage_files(version), version.manifest.inputs, CPU, slots=360)
    logits_ENK = evaluate(runner, digits.test.images_NCHW)
    accuracy_E = (logits_ENK.argmax(axis=2) == digits.test.truth_N).mean(axis=1)
    assert [each.accuracy for each in version.manifest.exits] == pytest.approx(accuracy_E.tolist())


def test_the_manifest_has_recipe_data_and_packages(
    finished: Run, tiny_recipe: Recipe, digits: Dataset
) -> None:
    provenance = finished.published().manifest.provenance
    assert provenance.recipe == tiny_recipe.model_dump(mode="json")
    assert provenance.dataset.test_rows == digits.test_rows
    assert provenance.dataset.split_digests == {name: split.digest for name, split in digits.splits.items()}
    assert {"torch", "onnxruntime", "offramp"} <= set(provenance.packages)


def test_accuracies_are_from_the_test_split_and_the_path_from_tune(finished: Run) -> None:
    manifest = finished.published().manifest
    points = manifest.operating_points
    assert list(points) == ["exact", "balanced", "fast"]
    assert {(each.split, each.n) for each in manifest.exits} == {("test", 360)}
    assert {(each.split, each.n) for each in points.values()} == {("test", 360)}
    assert (manifest.pareto_path.split, manifest.pareto_path.n) == ("tune", 200)


def test_exact_is_the_final_exit(finished: Run) -> None:
    manifest = finished.published().manifest
    exact = manifest.operating_points["exact"]
    assert (exact.thresholds, exact.disagreement, exact.exit_shares) == ((None, None), 0.0, (0.0, 0.0, 1.0))
    assert exact.accuracy == manifest.exits[-1].accuracy
    assert exact.certificate is None


def test_a_certificate_has_the_number_of_certify_rows(finished: Run) -> None:
    balanced = finished.published().manifest.operating_points["balanced"]
    assert balanced.certificate is not None
    assert (balanced.certificate.epsilon, balanced.certificate.delta, balanced.certificate.n) == (
        0.2,
        0.05,
        200,
    )


def test_a_certificate_has_its_risk_and_both_counts(finished: Run) -> None:
    promise = finished.published().manifest.operating_points["balanced"].certificate
    assert promise is not None
    assert promise.risk is Risk.DISAGREEMENT
    assert promise.harms is not None
    assert promise.harms <= promise.disagreements


def test_a_point_certified_by_nothing_reaches_its_target_and_is_reported_as_uncertified(
    finished: Run,
) -> None:
    manifest = finished.published().manifest
    fast = manifest.operating_points["fast"]
    points = manifest.pareto_path.points
    allowed = [row for row in points if row.accuracy_loss is not None and row.accuracy_loss <= 0.1]
    assert fast.thresholds in {row.thresholds for row in allowed}
    assert fast.certificate is None
    warning = 'warning: operating point "fast" is UNCERTIFIED, as requested by certified_by = "nothing"'
    assert warning in finished.lines
    assert "Not certified, as its goal requests" in finished.folder.report_path.read_text()


def test_the_plan_is_shown_before_training_and_recorded(finished: Run) -> None:
    plan = finished.folder.read_plan()
    assert plan is not None
    shown = list(plan_lines(plan))
    assert finished.lines[: len(shown)] == shown
    assert finished.record.plan == plan
    assert "2 generations of 2 epochs" in finished.folder.report_path.read_text(encoding="utf-8")


def test_warnings_are_shown_recorded_and_in_the_report(finished: Run) -> None:
    """The tiny network is hardly better than chance, so its exits have warnings."""
    warnings = finished.record.warnings
    assert any(warning.startswith("exit 0 is right on ") for warning in warnings)
    assert {f"warning: {warning}" for warning in warnings} <= set(finished.lines)
    page = html.unescape(finished.folder.report_path.read_text(encoding="utf-8"))
    assert [warning for warning in warnings if warning not in page] == []


def test_a_record_without_plan_and_warnings_can_be_read(finished: Run) -> None:
    document = json.loads((finished.folder.path / RECORD_FILE).read_text())
    del document["plan"], document["warnings"]
    record = RunRecord.model_validate_json(json.dumps(document))
    assert (record.plan, record.warnings) == (None, ())


def test_the_summary_of_a_record_states_what_the_default_point_saves(finished: Run) -> None:
    record = finished.record
    point = record.generations[record.chosen_generation].operating_points["balanced"]
    accuracy = f"balanced is right on {point.accuracy:.1%} of 360 test rows"
    assert record.summary == f"{accuracy} with {point.multiply_adds_share:.1%} of the network's multiply-adds"
    exact = point.model_copy(update={"thresholds": (None, None)})
    generations = tuple(
        each.model_copy(update={"operating_points": {"balanced": exact}}) for each in record.generations
    )
    assert record.model_copy(update={"generations": generations}).summary == f"{accuracy} and saves nothing"


def test_a_point_that_cannot_be_certified_equals_exact_and_is_reported(
    new_run: Run, tiny_recipe: Recipe
) -> None:
    # At this epsilon none of the 200 certify rows may differ. With this bad network several do.
    strict = OperatingPointSection(max_accuracy_loss=0.1, epsilon=0.015)
    recipe = tiny_recipe.model_copy(
        update={
            "generations": tiny_recipe.generations.model_copy(update={"count": 1}),
            "operating_points": tiny_recipe.operating_points.model_copy(update={"fast": strict}),
        }
    )
    progress = RecordingProgress()

    new_run.start(recipe, resume=False, progress=progress)

    points = new_run.published().manifest.operating_points
    assert points["fast"] == points["exact"]
    assert points["balanced"] != points["exact"]
    assert 'warning: operating point "fast" equals "exact": nothing faster was certified' in progress.lines
    assert "Nothing faster was certified, so it equals exact: " in new_run.folder.report_path.read_text()


def test_each_exit_has_the_distribution_of_its_confidences_on_the_test_rows(
    finished: Run, digits: Dataset
) -> None:
    version = finished.published()
    runner = StageRunner(stage_files(version), version.manifest.inputs, CPU, slots=360)
    logits_ENK = evaluate(runner, digits.test.images_NCHW)
    for number, each in enumerate(version.manifest.exits):
        assert each.confidence is not None
        confidence_N = read_exit(logits_ENK[number], each.calibration_temperature).confidence_B
        bin_N = np.digitize(confidence_N, each.confidence.edges)
        shares = np.bincount(bin_N, minlength=len(each.confidence.shares)) / 360
        assert each.confidence.shares == pytest.approx(shares.tolist(), abs=2 / 360)


def test_the_record_has_every_generation_with_its_n(finished: Run) -> None:
    record = finished.folder.read_record()
    assert record is not None
    assert Path(record.published) == (finished.models / "tiny" / "1").resolve()
    assert [each.number for each in record.generations] == [0, 1]
    assert record.generations[0].p_value is None
    assert record.generations[1].p_value is not None
    for generation in record.generations:
        assert generation.tune_n == 200
        assert {each.n for each in generation.exits} == {360}
        assert {each.n for each in generation.operating_points.values()} == {360}
    best = record.generations[record.chosen_generation]
    assert best.operating_points == finished.published().manifest.operating_points


def test_the_record_has_the_ensemble_at_each_exit(finished: Run, digits: Dataset) -> None:
    record = finished.folder.read_record()
    assert record is not None
    assert (record.ensemble.generations, record.ensemble.split, record.ensemble.n) == (2, "test", 360)
    logits = []
    for number in range(2):
        weights = torch.load(finished.folder.generation_folder(number) / WEIGHTS_FILE, weights_only=True)
        network = make_network(load_recipe_of(finished), digits)
        network.load_state_dict(weights["state"]["network"])
        with torch.no_grad():
            logits.append(network.eval()(torch.from_numpy(digits.test.images_NCHW)))
    label_EN = torch.stack([each.softmax(dim=2) for each in logits]).mean(dim=0).argmax(dim=2)
    accuracy_E = (label_EN.numpy() == digits.test.truth_N).mean(axis=1)
    assert record.ensemble.accuracy == pytest.approx(accuracy_E.tolist())


def load_recipe_of(new_run: Run) -> Recipe:
    return Recipe.model_validate_json((new_run.folder.path / RECIPE_FILE).read_text())


def test_the_report_is_written(finished: Run) -> None:
    assert "tiny" in finished.folder.report_path.read_text()


def test_a_finished_run_is_not_changed(finished: Run, tiny_recipe: Recipe) -> None:
    before = (finished.folder.path / RECORD_FILE).stat()
    record, did_run = finished.start(tiny_recipe, resume=True, progress=NeverTrains())
    assert (record.version, did_run) == (1, False)
    after = (finished.folder.path / RECORD_FILE).stat()
    # Only these fields: reading the record changes its access time.
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_run_whose_version_was_removed_publishes_again_without_training(
    finished: Run, new_run: Run, tiny_recipe: Recipe
) -> None:
    shutil.copytree(finished.folder.path, new_run.folder.path)
    record, did_run = new_run.start(tiny_recipe, resume=True, progress=NeverTrains())
    assert (record.version, did_run) == (1, True)
    ours, theirs = new_run.published().manifest, finished.published().manifest
    assert ours.model_copy(update={"created": theirs.created}) == theirs


def test_a_run_interrupted_before_its_report_publishes_only_once(finished: Run, tiny_recipe: Recipe) -> None:
    finished.folder.report_path.unlink()
    record, did_run = finished.start(tiny_recipe, resume=True, progress=NeverTrains())
    assert (record.version, did_run) == (1, True)
    assert finished.folder.report_path.exists()
    assert [version.name for version in (finished.models / "tiny").iterdir()] == ["1"]


def test_a_run_killed_before_its_record_finds_its_published_version_and_keeps_its_plan(
    finished: Run, new_run: Run, tiny_recipe: Recipe
) -> None:
    shutil.copytree(finished.root, new_run.root, dirs_exist_ok=True)
    for name in (RECORD_FILE, REPORT_FILE):
        (new_run.folder.path / name).unlink()
    path = new_run.folder.path / PLAN_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"expected_seconds": 12_345.0}))
    progress = NeverTrains()
    record, did_run = new_run.start(tiny_recipe, resume=True, progress=progress)
    assert (record.version, did_run) == (1, True)
    assert record.is_published_in(new_run.models)
    assert [version.name for version in (new_run.models / "tiny").iterdir()] == ["1"]
    assert any("about 3 h 25 min for the whole run" in line for line in progress.lines)


def test_the_record_and_the_manifest_name_the_run_and_the_precision(finished: Run) -> None:
    record = finished.folder.read_record()
    assert record is not None
    assert [each.precision for each in record.generations] == ["fp32", "fp32"]
    assert finished.published().manifest.provenance.run_id == finished.folder.run_id


def test_images_that_do_not_fit_the_network_are_refused_before_any_file_is_written(
    new_run: Run, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    path = tmp_path / "small.npz"
    train, test = np.random.default_rng(0).integers(0, 256, (2, 1600, 4, 4), dtype=np.uint8)
    truth_N = np.arange(1600) % 10
    np.savez(path, allow_pickle=False, x_train=train, y_train=truth_N, x_test=test, y_test=truth_N)
    dataset = tiny_recipe.dataset.model_copy(update={"name": "npz", "file": str(path), "test_rows": None})
    with pytest.raises(RecipeError, match="at least 8 pixels a side for 3 stages, got 4"):
        new_run.start(
            tiny_recipe.model_copy(update={"dataset": dataset}),
            resume=False,
            progress=NeverTrains(),
        )
    assert not new_run.folder.path.exists()
    assert not new_run.models.exists()


def test_a_model_repository_that_cannot_be_created_is_refused_before_training(
    new_run: Run, tiny_recipe: Recipe
) -> None:
    new_run.models.touch()
    with pytest.raises(RunError, match=r"models/tiny: cannot be created: Not a directory"):
        new_run.start(tiny_recipe, resume=False, progress=NeverTrains())


def test_the_record_is_plain_json(finished: Run) -> None:
    record = json.loads((finished.folder.path / RECORD_FILE).read_text())
    assert list(record) == [
        "recipe", "model", "version", "published", "manifest_sha256", "seed", "chosen_generation",
        "generations", "ensemble", "stage_milliseconds", "baselines", "plan", "warnings",
    ]  # fmt: skip
