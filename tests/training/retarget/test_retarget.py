"""Retargeting: what changes in the new version, and what does not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from scipy.stats import binom

from serving.engine.engine import Engine
from serving.engine.version import ServedVersion, VersionLimits
from serving.exits.options import RequestOptions, exit_rule
from serving.metrics.instruments import Metrics
from serving.repository.manifest import FORMAT_VERSION, Risk
from serving.repository.repository import read_version
from serving.stages.devices import CPU
from serving.stages.runner import StageRunner, stage_files
from tests.serving import token_model
from tests.training.retarget.retargets import (
    as_format_1,
    as_format_2,
    contents,
    measured,
    own_arrays,
    published,
    readings_of,
    rewrite,
    start,
    without_fast,
    without_labels,
)
from training.data.splits import Dataset
from training.errors import DatasetError, Uncertified
from training.exits.calibrate import calibration_temperature
from training.exits.certify import METHOD, METHOD_OF_ONE_CANDIDATE
from training.exits.evaluate import evaluate
from training.exits.goals import OperatingPointSection
from training.exits.intervals import STEPS
from training.release.origin import OwnData
from training.retarget.pipeline import Retargeted, retarget
from training.retarget.point_changes import PointChanges

ANSWER_SECONDS = 60.0


def test_the_stages_are_equal_byte_for_byte_and_the_old_version_is_kept(models: Path) -> None:
    before = contents(models / "tiny" / "1")

    start(models, PointChanges(epsilon=0.3))

    after = contents(models / "tiny" / "2")
    assert contents(models / "tiny" / "1") == before
    assert set(after) == set(before)
    assert {name for name in after if after[name] != before[name]} == {"manifest.json"}
    assert published(models, 2).manifest.stages == published(models, 1).manifest.stages


def test_on_its_own_data_only_the_requested_point_changes(models: Path) -> None:
    start(models, PointChanges(epsilon=0.3))

    old, new = published(models, 1).manifest, published(models, 2).manifest
    assert new.exits == old.exits
    assert new.pareto_path == old.pareto_path
    assert new.provenance.dataset == old.provenance.dataset
    kept = {name: point for name, point in old.operating_points.items() if name != "balanced"}
    assert {name: new.operating_points[name] for name in kept} == kept
    certificate = new.operating_points["balanced"].certificate
    assert certificate is not None
    assert (certificate.epsilon, certificate.delta, certificate.n, certificate.method) == (
        0.3,
        0.05,
        200,
        METHOD,
    )
    assert (certificate.risk, certificate.harms is None) == (Risk.DISAGREEMENT, False)


def test_the_results_of_a_point_are_of_the_served_stages_on_the_test_split(
    models: Path, digits: Dataset
) -> None:
    start(models, PointChanges("night", max_accuracy_loss=0.2, epsilon=0.5, certified_by="harm"))

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


def test_a_budget_is_kept_on_tune_and_has_the_smallest_possible_epsilon(
    models: Path, digits: Dataset
) -> None:
    start(models, PointChanges("cheap", budget=0.6))

    version = published(models, 2)
    certificate = version.manifest.operating_points["cheap"].certificate
    readings = readings_of(version, digits.tune.images_NCHW, digits.tune.truth_N)
    assert measured(version, readings, "cheap").multiply_adds_share <= 0.6
    assert certificate is not None
    assert certificate.method == METHOD_OF_ONE_CANDIDATE
    # So few losses have probability delta at most at epsilon, and more at a smaller epsilon.
    at_epsilon, below = (
        binom.cdf(certificate.disagreements, certificate.n, certificate.epsilon - less)
        for less in (0, 1 / STEPS)
    )
    assert at_epsilon <= certificate.delta < below


def test_the_provenance_has_the_old_version_and_the_options(models: Path) -> None:
    start(models, PointChanges("cheap", budget=0.6))

    old, new = (published(models, number).manifest.provenance for number in (1, 2))
    record = new.retargeted_from
    assert record is not None
    assert (new.recipe, old.retargeted_from) == (old.recipe, None)
    assert (record.version, record.options) == (1, {"point": "cheap", "budget": 0.6})
    assert list(record.goals) == ["balanced", "fast", "cheap"]
    assert record.data is None
    assert (new.seed, new.generation, new.packages) == (old.seed, old.generation, old.packages)
    assert {"numpy", "onnxruntime"} < set(record.packages) < set(old.packages)


def test_with_user_data_all_results_are_of_that_data(models: Path, own_file: Path) -> None:
    lines: list[str] = []

    own = OwnData(file=str(own_file), split_seed=5)
    retarget(models, "tiny", 1, PointChanges(), own, lines.append)

    assert not any("not checked" in line for line in lines)
    assert any(line.startswith("also chosen on this data, fast: on 541 test rows") for line in lines)
    old, version = published(models, 1).manifest, published(models, 2)
    new = version.manifest
    rows = {"temperature": 179, "tune": 359, "certify": 718, "test": 541}
    assert list(new.operating_points) == list(old.operating_points)
    assert {each.n for each in new.exits} == {rows["test"]}
    assert {each.n for each in new.operating_points.values()} == {rows["test"]}
    assert new.pareto_path.n == rows["tune"]
    certificate = new.operating_points["balanced"].certificate
    assert certificate is not None
    assert (certificate.n, certificate.epsilon) == (rows["certify"], 0.2)
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


def test_copies_in_the_user_data_are_left_out_and_reported(models: Path, own_file: Path) -> None:
    arrays = {name: np.concatenate([array, array[:40]]) for name, array in own_arrays().items()}
    arrays["y"][1797] = (arrays["y"][0] + 1) % 10
    np.savez(own_file, allow_pickle=False, **arrays)
    lines: list[str] = []

    retarget(models, "tiny", 1, PointChanges(), OwnData(file=str(own_file)), lines.append)

    assert published(models, 2).manifest.pareto_path.n == 359  # a fifth of 1,797 rows
    assert (
        "rows with the image of an earlier row: 40, left out so that no image is in two splits: 40" in lines
    )
    assert (
        "images with several labels: 1, first: row 0 of x (label 0) equals row 1797 of x (label 1)" in lines
    )


def test_user_data_is_read_again_and_refused_if_it_changed(models: Path, own_file: Path) -> None:
    start(models, PointChanges(), OwnData(file=str(own_file)))

    start(models, PointChanges("cheap", budget=0.6), version=2)

    second, third = (published(models, number).manifest for number in (2, 3))
    assert third.exits == second.exits
    assert third.provenance.dataset == second.provenance.dataset
    certificate = third.operating_points["cheap"].certificate
    assert certificate is not None
    assert certificate.n == 718
    arrays = own_arrays()
    np.savez(own_file, allow_pickle=False, x=arrays["x"], y=arrays["y"][::-1])
    with pytest.raises(
        DatasetError, match=r'dataset "npz": digest: expected [0-9a-f]{64} as .*, got [0-9a-f]'
    ):
        start(models, PointChanges("cheap", budget=0.7), version=2)


def test_added_points_are_chosen_again_on_user_data_by_their_goals(models: Path, own_file: Path) -> None:
    start(models, PointChanges("cheap", budget=0.6))

    start(models, PointChanges(epsilon=0.4), OwnData(file=str(own_file)), version=2)

    points = published(models, 3).manifest.operating_points
    assert list(points) == ["exact", "balanced", "fast", "cheap"]
    cheap, balanced = points["cheap"].certificate, points["balanced"].certificate
    assert cheap is not None
    assert balanced is not None
    assert (cheap.n, cheap.method) == (718, METHOD_OF_ONE_CANDIDATE)
    assert balanced.epsilon == 0.4


def test_harms_missing_in_an_old_format_are_counted(models: Path) -> None:
    original = published(models, 1).manifest
    rewrite(models / "tiny" / "1", without_fast)
    rewrite(models / "tiny" / "1", as_format_1)

    start(models, PointChanges("cheap", budget=0.6))

    new = published(models, 2).manifest
    assert new.format_version == FORMAT_VERSION
    assert new.exits == original.exits
    assert new.operating_points["balanced"] == original.operating_points["balanced"]


def test_a_point_without_its_certificate_is_not_published(models: Path) -> None:
    def remove_certificate(manifest: dict[str, Any]) -> None:
        manifest["operating_points"]["balanced"]["certificate"] = None

    rewrite(models / "tiny" / "1", remove_certificate)

    with pytest.raises(Uncertified, match="operating point 'balanced' of tiny: expected a certificate"):
        start(models, PointChanges("cheap", budget=0.6))
    assert {path.name for path in (models / "tiny").iterdir()} == {"1"}


def test_a_point_without_a_certificate_is_reported(models: Path) -> None:
    lines: list[str] = []

    changes = PointChanges("wild", max_accuracy_loss=1.0, certified_by="nothing")
    retargeted = retarget(models, "tiny", 1, changes, None, lines.append)

    assert published(models, 2).manifest.operating_points["wild"].certificate is None
    assert 'operating point "wild" is UNCERTIFIED, as requested by certified_by = "nothing"' in lines
    assert "; UNCERTIFIED; " in str(retargeted)


def test_a_version_of_an_old_format_is_published_in_the_current_format(
    models: Path,
) -> None:
    def to_format_1(manifest: dict[str, Any]) -> None:
        manifest["format_version"] = 1
        for each in manifest["exits"]:
            del each["confidence"]

    rewrite(models / "tiny" / "1", to_format_1)

    start(models, PointChanges())

    old, new = (published(models, number).manifest for number in (1, 2))
    assert (old.format_version, new.format_version) == (1, FORMAT_VERSION)
    assert new.exits[0].confidence is not None
    thresholds = [
        {name: point.thresholds for name, point in each.operating_points.items()} for each in (old, new)
    ]
    assert thresholds[0] == thresholds[1]


def test_without_options_a_version_of_format_2_is_rewritten_in_the_current_format_unchanged(
    models: Path,
) -> None:
    rewrite(models / "tiny" / "1", as_format_2)

    start(models, PointChanges())

    old, new = (published(models, number).manifest for number in (1, 2))
    assert (old.format_version, new.format_version) == (2, FORMAT_VERSION)
    assert (new.exits, new.operating_points, new.pareto_path) == (
        old.exits,
        old.operating_points,
        old.pareto_path,
    )
    assert new.stages == old.stages


def test_a_version_without_labels_gets_accuracies_on_labelled_data(models: Path, own_file: Path) -> None:
    rewrite(models / "tiny" / "1", without_labels)
    lines: list[str] = []

    retarget(models, "tiny", 1, PointChanges(), OwnData(file=str(own_file)), lines.append)

    new = published(models, 2).manifest
    assert None not in {point.accuracy for point in new.operating_points.values()}
    assert not any("check that their labels are numbered like the model's" in line for line in lines)


def test_an_equal_retargeting_publishes_nothing(models: Path) -> None:
    """As when a killed command had already published the version."""
    first = start(models, PointChanges(epsilon=0.3))
    again = start(models, PointChanges(epsilon=0.3))

    assert (first.is_new, again.is_new) == (True, False)
    assert again.version == first.version
    assert str(again).startswith("nothing to do, already published tiny version 2, balanced: ")
    assert {path.name for path in (models / "tiny").iterdir()} == {"1", "2"}


def test_a_point_of_a_version_without_labels_is_described_without_an_accuracy(tmp_path: Path) -> None:
    version = read_version(token_model.publish(tmp_path))

    line = str(Retargeted(version, "balanced", OperatingPointSection(max_accuracy_loss=0.1, epsilon=0.1)))

    assert line.startswith(
        "published tokens version 1, balanced: on 10 test rows 0 % differ from the full network, "
        "100 % of its multiply-adds; certified: "
    )


def test_without_options_points_are_kept_even_if_they_would_be_chosen_differently(
    models: Path,
) -> None:
    def change_point(manifest: dict[str, Any]) -> None:
        as_format_1(manifest)
        point = manifest["operating_points"]["balanced"]
        point["thresholds"] = [0.999, None]
        point["certificate"]["disagreements"] = 7  # not the count of these thresholds

    rewrite(models / "tiny" / "1", without_fast)
    rewrite(models / "tiny" / "1", change_point)

    retargeted = start(models, PointChanges())

    old, new = (published(models, number).manifest for number in (1, 2))
    assert new.operating_points == old.operating_points
    assert retargeted.point == "balanced"


def test_the_engine_has_the_disagreements_of_the_certificate(models: Path, digits: Dataset) -> None:
    start(models, PointChanges("cheap", budget=0.6))

    version = published(models, 2)
    rows = len(digits.certify)
    limits = VersionLimits(max_batch_size=rows, max_queue_size=rows)
    instruments = Metrics(CollectorRegistry()).for_model("tiny", 2, 3)
    engine, served = Engine(1), ServedVersion(version, CPU, limits, instruments, permits=1)
    engine.add(served)
    engine.start()
    labels = {}
    for name in ("exact", "cheap"):
        rule = exit_rule(served.points, RequestOptions(operating_point=name))
        answers = engine.infer(served, {"image": digits.certify.images_NCHW}, rule)
        labels[name] = answers.result(ANSWER_SECONDS).label_R
    engine.remove(served)
    engine.close()
    certificate = version.manifest.operating_points["cheap"].certificate
    assert certificate is not None
    assert int((labels["cheap"] != labels["exact"]).sum()) == certificate.disagreements
