"""A published version with other operating points: what changes, what must not, and what is refused."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from prometheus_client import CollectorRegistry
from scipy.stats import binom
from sklearn.datasets import load_digits

from serving.engine.devices import CPU
from serving.engine.engine import Engine, EngineLimits
from serving.engine.policy import ExitRule
from serving.engine.stages import StageRunner, stage_files
from serving.errors import RepositoryError
from serving.metrics import Metrics
from serving.repository.manifest import Risk
from serving.repository.repository import PublishedVersion, file_digest, read_version
from training.__main__ import MISTAKE, main
from training.born_again.progress import ProgressBar
from training.data.splits import Dataset
from training.errors import DatasetError, NotFinite, RecipeError, TrainingError, Uncertified
from training.exits.calibrate import calibration_temperature
from training.exits.certify import METHOD, METHOD_OF_ONE_ROW
from training.exits.evaluate import Outcome, Readings, evaluate, outcome, read
from training.exits.intervals import STEPS
from training.exits.thresholds import Candidate
from training.pipeline import run
from training.recipe import Recipe
from training.release.origin import OwnData, Retargeting, data_of
from training.retarget import Found, Retargeted, manifest_of, retarget
from training.run_folder import RunFolder
from training.wish import Wish

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]


@pytest.fixture(scope="module")
def trained(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with version 1 of the tiny recipe, of one generation."""
    short = tiny_recipe.model_copy(
        update={"generations": tiny_recipe.generations.model_copy(update={"count": 1})}
    )
    place = tmp_path_factory.mktemp("trained")
    progress = ProgressBar(quiet=True)
    run(short, "tiny", RunFolder(place / "run"), place / "models", progress, resume=False)
    return place / "models"


@pytest.fixture
def models(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "models"))


def own_arrays() -> Arrays:
    """The digits moved by a pixel: other images, of which nothing was trained on."""
    digits = load_digits()
    return {"x": np.roll(digits.images.astype(np.uint8), 1, axis=2), "y": digits.target}


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    path = tmp_path / "own.npz"
    np.savez(path, allow_pickle=False, **own_arrays())
    return path


def published(models: Path, number: int) -> PublishedVersion:
    return read_version(models / "tiny" / str(number))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start(models: Path, wish: Wish, data: OwnData | None = None, *, version: int = 1) -> Retargeted:
    return retarget(models, "tiny", version, wish, data, lambda _line: None)


def refused(models: Path, wish: Wish, data: OwnData | None = None, *, version: int = 1) -> str:
    """Retarget, which must raise and leave the repository as it was."""
    before = contents(models)
    with pytest.raises((TrainingError, RepositoryError)) as caught:
        start(models, wish, data, version=version)
    assert contents(models) == before
    assert {path.name for path in (models / "tiny").iterdir()} == {"1"}
    assert "\n" not in str(caught.value)
    return str(caught.value)


def readings_of(
    version: PublishedVersion, images_NCHW: np.ndarray[Any, Any], truth_N: np.ndarray[Any, Any]
) -> Readings:
    runner = StageRunner(stage_files(version), version.manifest.inputs, CPU, slots=360)
    temperatures = [each.calibration_temperature for each in version.manifest.exits]
    return read(evaluate(runner, images_NCHW), truth_N, temperatures)


def measured(version: PublishedVersion, readings: Readings, point: str) -> Outcome:
    thresholds = version.manifest.operating_points[point].thresholds
    return outcome(readings, Candidate(thresholds, 0.0, 0.0, 1.0).rule, version.manifest.multiply_adds)


def test_the_stages_are_the_same_byte_for_byte_and_the_old_version_stays(models: Path) -> None:
    before = contents(models / "tiny" / "1")

    start(models, Wish(epsilon=0.3))

    after = contents(models / "tiny" / "2")
    assert contents(models / "tiny" / "1") == before
    assert set(after) == set(before)
    assert {name for name in after if after[name] != before[name]} == {"manifest.json"}
    assert published(models, 2).manifest.stages == published(models, 1).manifest.stages


def test_on_its_own_data_a_version_keeps_all_but_the_point_that_was_asked_for(models: Path) -> None:
    start(models, Wish(epsilon=0.3))

    old, new = published(models, 1).manifest, published(models, 2).manifest
    assert new.exits == old.exits
    assert new.pareto_path == old.pareto_path
    assert new.provenance.dataset == old.provenance.dataset
    kept = {name: point for name, point in old.operating_points.items() if name != "balanced"}
    assert {name: new.operating_points[name] for name in kept} == kept
    promise = new.operating_points["balanced"].certificate
    assert promise is not None
    assert (promise.epsilon, promise.delta, promise.n, promise.method) == (0.3, 0.05, 200, METHOD)
    assert (promise.risk, promise.harms is None) == (Risk.DISAGREEMENT, False)


def test_a_points_figures_are_those_of_the_test_split_as_it_is_served(models: Path, digits: Dataset) -> None:
    start(models, Wish("night", max_accuracy_loss=0.2, epsilon=0.5, certified_by="harm"))

    version = published(models, 2)
    point = version.manifest.operating_points["night"]
    tested = measured(version, readings_of(version, digits.test.images_NCHW, digits.test.truth_N), "night")
    assert (point.accuracy, point.disagreement) == (tested.accuracy, tested.disagreement)
    assert (point.multiply_adds_share, point.exit_shares) == (tested.multiply_adds_share, tested.exit_shares)
    certified = measured(
        version, readings_of(version, digits.certify.images_NCHW, digits.certify.truth_N), "night"
    )
    assert point.certificate is not None
    assert (point.certificate.disagreements, point.certificate.harms) == (
        certified.disagreements,
        certified.harms,
    )
    assert point.certificate.risk is Risk.HARM


def test_a_budget_is_kept_on_tune_and_gets_the_smallest_epsilon_there_is(
    models: Path, digits: Dataset
) -> None:
    start(models, Wish("cheap", budget=0.6))

    version = published(models, 2)
    promise = version.manifest.operating_points["cheap"].certificate
    readings = readings_of(version, digits.tune.images_NCHW, digits.tune.truth_N)
    assert measured(version, readings, "cheap").multiply_adds_share <= 0.6
    assert promise is not None
    assert promise.method == METHOD_OF_ONE_ROW
    # So few losses have a chance of delta at most at epsilon, and of more at a hundredth of a percent less.
    at_epsilon, below = (
        binom.cdf(promise.disagreements, promise.n, promise.epsilon - less) for less in (0, 1 / STEPS)
    )
    assert at_epsilon <= promise.delta < below


def test_provenance_says_from_which_version_and_by_what_options(models: Path) -> None:
    start(models, Wish("cheap", budget=0.6))

    old, new = (published(models, number).manifest.provenance for number in (1, 2))
    record = new.retargeted_from
    assert record is not None
    assert (new.recipe, old.retargeted_from) == (old.recipe, None)
    assert (record.version, record.options) == (1, {"point": "cheap", "budget": 0.6})
    assert list(record.goals) == ["balanced", "fast", "cheap"]
    assert record.data is None
    assert (new.seed, new.generation, new.packages) == (old.seed, old.generation, old.packages)
    assert {"numpy", "onnxruntime"} < set(record.packages) < set(old.packages)


def test_on_new_data_every_point_and_figure_is_of_that_data(models: Path, own_file: Path) -> None:
    said: list[str] = []

    own = OwnData(file=str(own_file), split_seed=5)
    retarget(models, "tiny", 1, Wish(), own, said.append)

    assert not any("not checked" in line for line in said)
    assert any(line.startswith("also chosen on this data, fast: on 541 test rows") for line in said)
    old, version = published(models, 1).manifest, published(models, 2)
    new = version.manifest
    rows = {"temperature": 179, "tune": 359, "certify": 718, "test": 541}
    assert list(new.operating_points) == list(old.operating_points)
    assert {each.n for each in new.exits} == {rows["test"]}
    assert {each.n for each in new.operating_points.values()} == {rows["test"]}
    assert new.pareto_path.n == rows["tune"]
    promise = new.operating_points["balanced"].certificate
    assert promise is not None
    assert (promise.n, promise.epsilon) == (rows["certify"], 0.2)
    fitting = own.load(version).temperature
    runner = StageRunner(stage_files(version), new.inputs, CPU, slots=360)
    assert [each.calibration_temperature for each in new.exits] == [
        calibration_temperature(logits_NK, fitting.truth_N)
        for logits_NK in evaluate(runner, fitting.images_NCHW)
    ]
    data = new.provenance.dataset
    assert (data.name, data.split_seed, set(data.split_digests)) == ("npz", 5, set(rows))
    assert data.digest != old.provenance.dataset.digest
    assert data.test_rows is not None
    assert len(data.test_rows) == rows["test"]
    arrays = own_arrays()
    row_N = np.array(data.test_rows)
    tested = measured(
        version, readings_of(version, arrays["x"][row_N, np.newaxis], arrays["y"][row_N]), "balanced"
    )
    assert new.operating_points["balanced"].accuracy == tested.accuracy


def test_a_version_on_data_of_the_users_is_retargeted_on_it_again_and_not_on_what_it_became(
    models: Path, own_file: Path
) -> None:
    start(models, Wish(), OwnData(file=str(own_file)))

    start(models, Wish("cheap", budget=0.6), version=2)

    second, third = (published(models, number).manifest for number in (2, 3))
    assert third.exits == second.exits
    assert third.provenance.dataset == second.provenance.dataset
    promise = third.operating_points["cheap"].certificate
    assert promise is not None
    assert promise.n == 718
    arrays = own_arrays()
    np.savez(own_file, allow_pickle=False, x=arrays["x"], y=arrays["y"][::-1])
    with pytest.raises(
        DatasetError, match=r'dataset "npz": digest: expected [0-9a-f]{64} as .*, got [0-9a-f]'
    ):
        start(models, Wish("cheap", budget=0.7), version=2)


def test_points_made_by_a_retargeting_are_chosen_again_on_new_data_by_their_own_goals(
    models: Path, own_file: Path
) -> None:
    start(models, Wish("cheap", budget=0.6))

    start(models, Wish(epsilon=0.4), OwnData(file=str(own_file)), version=2)

    points = published(models, 3).manifest.operating_points
    assert list(points) == ["exact", "balanced", "fast", "cheap"]
    cheap, balanced = points["cheap"].certificate, points["balanced"].certificate
    assert cheap is not None
    assert balanced is not None
    assert (cheap.n, cheap.method) == (718, METHOD_OF_ONE_ROW)
    assert balanced.epsilon == 0.4


def rewrite(version: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a version's manifest as no publisher would."""
    manifest = json.loads((version / "manifest.json").read_text())
    change(manifest)
    (version / "manifest.json").write_text(json.dumps(manifest))


def as_format_1(manifest: dict[str, Any]) -> None:
    manifest["format_version"] = 1
    for each in manifest["exits"]:
        del each["confidence"]
    promise = manifest["operating_points"]["balanced"]["certificate"]
    del promise["risk"], promise["harms"]
    for goal in manifest["provenance"]["recipe"]["operating_points"].values():
        goal.pop("certified_by")


def without_fast(manifest: dict[str, Any]) -> None:
    del manifest["operating_points"]["fast"]


def test_what_an_older_format_left_out_is_counted_on_the_same_rows(models: Path) -> None:
    whole = published(models, 1).manifest
    rewrite(models / "tiny" / "1", without_fast)
    rewrite(models / "tiny" / "1", as_format_1)

    start(models, Wish("cheap", budget=0.6))

    new = published(models, 2).manifest
    assert new.format_version == 2
    assert new.exits == whole.exits
    assert new.operating_points["balanced"] == whole.operating_points["balanced"]


def test_a_faster_point_that_lost_its_certificate_is_not_published_again(models: Path) -> None:
    def lose(manifest: dict[str, Any]) -> None:
        manifest["operating_points"]["balanced"]["certificate"] = None

    rewrite(models / "tiny" / "1", lose)

    with pytest.raises(Uncertified, match="operating point 'balanced' of tiny: expected a certificate"):
        start(models, Wish("cheap", budget=0.6))
    assert {path.name for path in (models / "tiny").iterdir()} == {"1"}


def test_a_point_asked_for_without_a_promise_has_none_and_is_said_to(models: Path) -> None:
    said: list[str] = []

    wish = Wish("wild", max_accuracy_loss=1.0, certified_by="nothing")
    done = retarget(models, "tiny", 1, wish, None, said.append)

    assert published(models, 2).manifest.operating_points["wild"].certificate is None
    assert 'operating point "wild" is UNCERTIFIED, as asked by certified_by = "nothing"' in said
    assert "; UNCERTIFIED; " in str(done)


def test_an_unknown_model_or_version_is_told_the_known_ones(models: Path) -> None:
    with pytest.raises(RepositoryError, match="expected one of tiny, got 'huge'"):
        retarget(models, "huge", 1, Wish(epsilon=0.3), None, print)
    with pytest.raises(RepositoryError, match=r"expected one of tiny, got '\.\./tiny'"):
        retarget(models, "../tiny", 1, Wish(epsilon=0.3), None, print)
    with pytest.raises(RepositoryError, match=r'model "tiny": expected one of versions 1, got 7'):
        retarget(models, "tiny", 7, Wish(epsilon=0.3), None, print)
    with pytest.raises(RepositoryError, match="expected a folder, got nothing there"):
        retarget(models / "none", "tiny", 1, Wish(epsilon=0.3), None, print)


def test_an_epsilon_that_the_certify_split_is_too_small_for_is_refused(models: Path) -> None:
    assert "expected a certify split of at least 299 rows, got 200" in refused(models, Wish(epsilon=0.01))


def test_a_budget_that_no_row_keeps_is_refused_with_the_least_there_is(models: Path) -> None:
    assert "budget: expected at least 0." in refused(models, Wish(budget=0.0001))


def test_a_stage_that_is_not_the_one_described_is_refused(models: Path) -> None:
    with (models / "tiny" / "1" / "stage-1.onnx").open("ab") as file:
        file.write(b"\0")

    assert "stage-1.onnx: sha256: expected" in refused(models, Wish(epsilon=0.3))


def test_a_stage_that_answers_nan_is_refused(models: Path) -> None:
    path = models / "tiny" / "1" / "stage-2.onnx"
    model = onnx.load(path)
    bias = next(each for each in model.graph.initializer if numpy_helper.to_array(each).shape == (10,))
    bias.CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), bias.name))
    onnx.save(model, path)

    def redigest(manifest: dict[str, Any]) -> None:
        manifest["stages"][2]["sha256"] = file_digest(path)

    rewrite(models / "tiny" / "1", redigest)

    with pytest.raises(NotFinite):
        start(models, Wish(epsilon=0.3))
    assert "exit 2: expected finite numbers, got NaN or infinity in 200 of 200 rows" in refused(
        models, Wish(epsilon=0.3)
    )


def test_a_version_of_an_older_format_is_published_in_todays_with_the_points_it_has(models: Path) -> None:
    def to_format_1(manifest: dict[str, Any]) -> None:
        manifest["format_version"] = 1
        for each in manifest["exits"]:
            del each["confidence"]

    rewrite(models / "tiny" / "1", to_format_1)

    start(models, Wish())

    old, new = (published(models, number).manifest for number in (1, 2))
    assert (old.format_version, new.format_version) == (1, 2)
    assert new.exits[0].confidence is not None
    thresholds = [
        {name: point.thresholds for name, point in each.operating_points.items()} for each in (old, new)
    ]
    assert thresholds[0] == thresholds[1]


def test_where_nothing_is_wished_for_every_point_stays_as_it_is_however_it_would_be_chosen_now(
    models: Path,
) -> None:
    def by_hand(manifest: dict[str, Any]) -> None:
        as_format_1(manifest)
        point = manifest["operating_points"]["balanced"]
        point["thresholds"] = [0.999, None]
        point["certificate"]["disagreements"] = 7  # what no row of these thresholds makes true

    rewrite(models / "tiny" / "1", without_fast)
    rewrite(models / "tiny" / "1", by_hand)

    done = start(models, Wish())

    old, new = (published(models, number).manifest for number in (1, 2))
    assert new.operating_points == old.operating_points
    assert done.point == "balanced"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda provenance: provenance["recipe"].pop("operating_points"),
            "recipe.operating_points: expected a section, got none",
        ),
        (
            lambda provenance: provenance["recipe"].pop("dataset"),
            "recipe.dataset: expected a section, got none",
        ),
        (
            lambda provenance: provenance["recipe"]["dataset"].update(name="mnist"),
            "recipe.dataset.name: expected one of digits, ",
        ),
        (
            lambda provenance: provenance["recipe"]["dataset"].update(split_seed=1),
            'dataset "digits": digests of its splits: expected ',
        ),
        (
            lambda provenance: provenance.update(
                retargeted_from={"version": 1, "options": {}, "goals": {"fast": {"budget": 2}}, "data": None}
            ),
            "retargeted_from.goals.fast",
        ),
        (
            lambda provenance: provenance.update(
                retargeted_from={
                    "version": 1,
                    "options": {},
                    "goals": {"fast": {"max_accuracy_loss": 0.1, "epsilon": 0.1, "news": 1}},
                    "data": None,
                }
            ),
            "news: unknown key",
        ),
    ],
)
def test_a_provenance_that_does_not_lead_back_to_goals_and_data_is_refused(
    models: Path, change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    rewrite(models / "tiny" / "1", lambda manifest: change(manifest["provenance"]))

    assert complaint in refused(models, Wish(epsilon=0.3))


def test_a_point_without_a_goal_in_the_provenance_is_not_carried_over_to_new_data(
    models: Path, own_file: Path
) -> None:
    def add(manifest: dict[str, Any]) -> None:
        manifest["operating_points"]["stray"] = manifest["operating_points"]["exact"]

    rewrite(models / "tiny" / "1", add)

    said = refused(models, Wish(), OwnData(file=str(own_file)))
    assert "operating point 'stray': expected its goal in the provenance, got none" in said


ROWS = 50
PATIENCE_SECONDS = 60.0


def blank(rows: int = ROWS, **changes: Array) -> Arrays:
    arrays: Arrays = {"x": np.zeros((rows, 8, 8), np.uint8), "y": np.arange(rows) % 10}
    arrays["x"][:, 0, 0] = np.arange(rows)  # so that no two are the same
    return arrays | changes


def with_a_twin() -> Array:
    images: Array = blank()["x"].copy()
    images[17] = images[3]
    return images


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"x_train": np.zeros((9, 8, 8), np.uint8)}, "expected arrays x, y, got x_train"),
        ({"x": np.zeros((9, 8, 8), np.uint8)}, "expected arrays x, y, got x"),
        (blank(x=np.zeros((ROWS, 8, 8), np.float32)), "x: expected uint8 images .* got float32"),
        (blank(x=np.zeros((ROWS, 64), np.uint8)), r"x: expected uint8 images .* got uint8 \[50, 64\]"),
        (
            blank(x=np.zeros((ROWS, 28, 28), np.uint8)),
            r"x: expected images of shape \[1, 8, 8\] as the model takes, got \[1, 28, 28\]",
        ),
        (
            blank(x=np.zeros((ROWS, 3, 8, 8), np.uint8)),
            r"x: expected images of shape \[1, 8, 8\] as the model takes, got \[3, 8, 8\]",
        ),
        (blank(x=np.zeros((0, 8, 8), np.uint8)), "x: expected uint8 images"),
        (
            blank(y=np.arange(7)),
            r"y: expected integer labels of shape \[50\], .* got int64 \[7\]",
        ),
        (blank(y=np.zeros(ROWS)), "y: expected integer labels .* got float64"),
        (blank(y=np.arange(ROWS)), r"y: row 10: expected a label 0\.\.9, got 10"),
        (blank(y=-np.arange(ROWS)), r"y: row 1: expected a label 0\.\.9, got -1"),
        (blank(x=with_a_twin()), "odd.npz: x: rows 3 and 17: expected no image twice, got the same"),
        (blank(9), 'dataset "npz": expected at least 10 rows to cut, got 9'),
        (
            blank(10),
            "'balanced': epsilon 0.2 at delta 0.05: .* at least 14 rows, got 4",
        ),
    ],
)
def test_data_of_the_users_that_does_not_fit_is_refused_by_name_with_both_values(
    models: Path, tmp_path: Path, arrays: Arrays, complaint: str
) -> None:
    path = tmp_path / "odd.npz"
    np.savez(path, allow_pickle=False, **arrays)

    assert re.search(complaint, refused(models, Wish(), OwnData(file=str(path))))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half of an archive", b"\x93NUMPY"])
def test_a_file_that_is_no_archive_of_arrays_is_refused(models: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.npz"
    path.write_bytes(content)

    assert "odd.npz: expected" in refused(models, Wish(), OwnData(file=str(path)))


def test_pickled_objects_are_refused_and_never_loaded(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd.npz"
    np.savez(path, x=np.array([{}] * 9, dtype=object), y=np.zeros(9, int))

    assert "odd.npz: x: expected a whole, plain array" in refused(models, Wish(), OwnData(file=str(path)))


def test_rows_that_the_version_was_trained_on_are_refused_as_data_of_the_users(
    models: Path, own_file: Path, digits: Dataset
) -> None:
    arrays = own_arrays()
    arrays["x"][[7, 9]] = digits.train.images_NCHW[:2, 0]
    np.savez(own_file, allow_pickle=False, **arrays)

    said = refused(models, Wish(), OwnData(file=str(own_file)))

    assert said == (
        f"{own_file}: x: row 7: expected images that nothing was trained on, "
        "got 2 of 1,797 from the train split of digits"
    )


def test_a_version_that_is_on_other_data_already_is_still_known_by_the_rows_it_was_trained_on(
    models: Path, own_file: Path, tmp_path: Path, digits: Dataset
) -> None:
    start(models, Wish(), OwnData(file=str(own_file)))
    path = tmp_path / "trained-on.npz"
    np.savez(path, allow_pickle=False, x=digits.train.images_NCHW, y=digits.train.truth_N)

    with pytest.raises(DatasetError, match="x: row 0: expected images that nothing was trained on"):
        start(models, Wish(), OwnData(file=str(path)), version=2)


def test_where_the_rows_trained_on_cannot_be_loaded_that_is_said_and_the_rest_is_done(
    models: Path, own_file: Path
) -> None:
    def move(manifest: dict[str, Any]) -> None:
        manifest["provenance"]["recipe"]["dataset"].update(name="npz", file="gone.npz")

    rewrite(models / "tiny" / "1", move)
    said: list[str] = []

    retarget(models, "tiny", 1, Wish(), OwnData(file=str(own_file)), said.append)

    assert said[0].startswith(f"not checked whether {own_file} has rows that were trained on: gone.npz: ")
    assert published(models, 2).manifest.provenance.dataset.name == "npz"


@pytest.mark.parametrize(("better", "doubts"), [(0.19, 0), (0.21, 1)])
def test_labels_are_doubted_in_a_line_where_full_depth_was_over_20_points_more_accurate(
    models: Path, own_file: Path, better: float, doubts: int
) -> None:
    start(models, Wish(), OwnData(file=str(own_file)))
    accuracy = published(models, 2).manifest.operating_points["exact"].accuracy + better
    rewrite(
        models / "tiny" / "1",
        lambda manifest: manifest["operating_points"]["exact"].update(accuracy=accuracy),
    )
    said: list[str] = []

    retarget(models, "tiny", 1, Wish(), OwnData(file=str(own_file)), said.append)

    doubt = f"where the version had {100 * accuracy:.1f} %: are their labels numbered as the model's?"
    assert sum(line.endswith(doubt) for line in said) == doubts


def test_on_new_data_a_goal_that_cannot_be_reached_is_refused_by_its_points_name(
    models: Path, own_file: Path
) -> None:
    start(models, Wish("cheap", budget=0.6))
    arrays = own_arrays()
    rewrite(
        models / "tiny" / "2",
        lambda manifest: manifest["provenance"]["retargeted_from"]["goals"]["cheap"].update(budget=0.0001),
    )
    np.savez(own_file, allow_pickle=False, **arrays)

    with pytest.raises(RecipeError, match=r"^operating point 'cheap': budget: expected at least 0\."):
        start(models, Wish(), OwnData(file=str(own_file)), version=2)


def test_parts_that_make_no_manifest_are_refused_and_nothing_is_written(models: Path) -> None:
    version = published(models, 1)
    found = Found({}, version.manifest.exits[:1], {}, version.manifest.pareto_path)
    record = Retargeting(version=1, options={}, goals={}, data=None)

    with pytest.raises(RepositoryError, match=r"tiny/1: cannot be published again: exits must be"):
        manifest_of(version, 2, found, data_of(version), record)


def command(models: Path, *more: str) -> list[str]:
    return ["retarget", "tiny", "1", "--model-repository", str(models), *more]


def test_nothing_certified_needs_no_epsilon_and_is_said_in_words_of_its_own(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--max-accuracy-loss", "1.0", "--certified-by", "nothing")

    assert main(command(models, "--point", "wild", *arguments)) == 0

    said = capsys.readouterr()
    assert "; UNCERTIFIED; " in said.out
    assert "nothing faster was certified" not in said.out + said.err
    assert "epsilon" not in published(models, 2).manifest.provenance.model_dump_json(
        include={"retargeted_from": {"options"}}
    )


def test_success_is_one_line_with_the_points_figures(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(models, "--point", "cheap", "--budget", "0.6", "--certified-by", "harm")) == 0

    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    assert said.out.startswith("published tiny version 2, cheap: on 360 test rows accuracy ")
    assert "; certified: at most " in said.out
    assert "of answers are wrong where the full network's is right, with 95 % confidence (" in said.out
    assert said.out.endswith(f"; {models / 'tiny' / '2'}\n")
    assert said.err.startswith(
        "tiny version 1 on digits, rows: temperature 100, tune 200, certify 200, test 360\n"
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "operating point 'balanced': expected another goal, got the one it has"),
        (("--epsilon", "nan"), "--epsilon: expected a finite number, got nan"),
        (("--epsilon", "many"), "argument --epsilon: invalid float value: 'many'"),
        (("--budget", "0.5", "--max-accuracy-loss", "0.1"), "not allowed with argument --budget"),
        (("--certified-by", "luck"), "argument --certified-by: invalid choice: 'luck'"),
        (("--split-seed", "3", "--epsilon", "0.3"), "--split-seed: expected none without --data, got 3"),
        (("--split-seed", "-3", "--data", "own.npz"), "--split-seed: expected 0 to "),
        (("--data", "gone.npz"), "gone.npz: expected an .npz file with x, y, got no such file"),
        (("--point", "exact", "--epsilon", "0.3"), "--point: expected a name matching"),
    ],
)
def test_a_mistake_is_exit_code_2_and_one_line(
    models: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], complaint: str
) -> None:
    before = contents(models)

    try:
        code = main(command(models, *arguments))
    except SystemExit as leaving:  # argparse leaves by itself
        code = int(leaving.code or 0)

    said = capsys.readouterr()
    assert code == MISTAKE
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert complaint in said.err
    assert contents(models) == before


def test_retargeting_loads_nothing_that_only_training_needs(models: Path) -> None:
    program = (
        "import sys; from training.__main__ import main; code = main(sys.argv[1:]); "
        "print(*{name for name in sys.modules if name.split('.')[0] in ('torch', 'onnx', 'matplotlib')}); "
        "sys.exit(code)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, *command(models, "--epsilon", "0.3")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
        check=False,
    )
    done, loaded = finished.stdout.splitlines()
    assert done.startswith("published tiny version 2, balanced: ")
    assert (finished.returncode, loaded) == (0, "")


def test_an_engine_serves_the_new_point_as_its_certificate_was_counted(models: Path, digits: Dataset) -> None:
    start(models, Wish("cheap", budget=0.6))

    version = published(models, 2)
    rows = len(digits.certify)
    limits = EngineLimits(max_batch_size=rows, max_queue_size=rows, slots=rows, workers=1, patience=1)
    engine = Engine(version, CPU, limits, Metrics(CollectorRegistry()).for_model("tiny", 2, 3))
    try:
        labels = {}
        for name in ("exact", "cheap"):
            rule = ExitRule(version.manifest.operating_points[name].thresholds, max_exit=2)
            reply = engine.submit({"image": digits.certify.images_NCHW}, rule)
            labels[name] = reply.result(PATIENCE_SECONDS).label_R
    finally:
        engine.close()
    promise = version.manifest.operating_points["cheap"].certificate
    assert promise is not None
    assert int((labels["cheap"] != labels["exact"]).sum()) == promise.disagreements
