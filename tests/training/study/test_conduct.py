"""A conducted study: training, counts and resumption."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.training.never_trains import NeverTrains
from training.born_again.checkpoint import WEIGHTS_FILE
from training.born_again.fit import right_rows, tensors
from training.born_again.progress import ProgressBar
from training.data.splits import Dataset
from training.errors import RecipeError, RunError
from training.pipeline.folder import RunFolder
from training.pipeline.from_recipe import make_network, train
from training.study.conduct import conduct, networks_done
from training.study.plan import Study
from training.study.record import Paired, StudyRecord


def correct_by_pytorch(folder: Path, study: Study, dataset: Dataset) -> NDArray[np.bool_]:
    """Return the correct test rows of each exit, from PyTorch instead of the exported stages."""
    network = make_network(study.recipe, dataset)
    network.load_state_dict(torch.load(folder / WEIGHTS_FILE)["state"]["network"])
    correct_EN: NDArray[np.bool_] = right_rows(network, *tensors(dataset.test, torch.device("cpu"))).numpy()
    return correct_EN


def test_every_network_is_trained_and_recorded_once(study: Study, record: StudyRecord) -> None:
    keys = [(each.rule, each.seed, each.generation) for each in record.networks]
    assert len(set(keys)) == len(keys) == study.firsts + study.successors
    (repeated,) = record.repeated_rules
    assert {(rule, seed) for rule, seed, _ in keys} == {
        (None, 0),
        (None, 1),
        ("kd", 0),
        ("ban", 0),
        ("dkpp", 0),
        (repeated, 1),
    }


def test_the_repeated_rule_is_the_best_on_tune(study: Study, record: StudyRecord) -> None:
    right: dict[str, int] = {
        rule: sum(each.tune_right[-1] for each in record.line(rule, 0)[1:]) for rule in study.rules
    }
    assert right[record.repeated_rules[0]] == max(right.values())


def test_counts_are_those_of_the_networks_on_test(
    study: Study, record: StudyRecord, study_folder: Path
) -> None:
    dataset = study.recipe.dataset.load()
    first_EN = correct_by_pytorch(study_folder / "seed-0" / "generation-0", study, dataset)
    second_EN = correct_by_pytorch(study_folder / "ban-seed-0" / "generation-1", study, dataset)
    network = record.line("ban", 0)[1]
    assert record.first(0).right == tuple(first_EN.sum(axis=1).tolist())
    assert network.right == tuple(second_EN.sum(axis=1).tolist())
    expected = [Paired.of(*both) for both in zip(first_EN, second_EN, strict=True)]
    assert list(network.over_first) == list(network.over_teacher) == expected


def test_a_later_generation_is_also_compared_with_its_teacher(record: StudyRecord) -> None:
    first, second, third = record.line("kd", 0)
    for number in range(record.exits):
        over_first, over_teacher = third.over_first[number], third.over_teacher[number]
        assert over_first.gained - over_first.lost == third.right[number] - first.right[number]
        assert over_teacher.gained - over_teacher.lost == third.right[number] - second.right[number]


def test_ensembles_cover_every_line_and_the_seeds(record: StudyRecord) -> None:
    made = {(each.rule, each.seeds, each.generations) for each in record.ensembles}
    assert (None, (0, 1), (0, 0)) in made
    for rule, seed, line in record.lines():
        for count in range(2, len(line) + 1):
            assert (rule, (seed,) * count, tuple(range(count))) in made
    assert len(made) == 1 + 2 * 4


def test_the_contrast_has_both_rules_under_the_same_teacher(record: StudyRecord) -> None:
    (contrast,) = record.contrasts
    dark, undark = record.line("ban", 0)[1], record.line("dkpp", 0)[1]
    assert (contrast.rule, contrast.than, contrast.seed, contrast.generation) == ("ban", "dkpp", 0, 1)
    for number, over in enumerate(contrast.over):
        assert over.gained - over.lost == dark.right[number] - undark.right[number]


def test_rows_of_a_point_add_up(record: StudyRecord) -> None:
    cost_E = np.cumsum(record.multiply_adds)
    for network in record.networks:
        for point in network.points.values():
            assert sum(point.exit_counts) == record.n
            spent = np.dot(point.exit_counts, cost_E) / (record.n * cost_E[-1])
            assert point.multiply_adds_share == pytest.approx(spent)


def test_a_line_continues_from_generation_0_of_its_seed(
    study: Study, record: StudyRecord, study_folder: Path, tmp_path: Path
) -> None:
    """A line that is trained on its own has bitwise the same weights."""
    dataset, recipe = study.recipe.dataset.load(), study.line_recipe("ban", 0)
    folder = RunFolder(tmp_path / "alone")
    folder.begin(recipe, dataset.digests)
    alone = train(recipe, dataset, folder, ProgressBar(quiet=True))
    kept = torch.load(study_folder / "ban-seed-0" / "generation-2" / WEIGHTS_FILE)["state"]["network"]
    for name, tensor in alone[2].network.state_dict().items():
        assert torch.equal(tensor, kept[name]), name


def test_the_networks_of_a_finished_study_are_counted(record: StudyRecord, study_folder: Path) -> None:
    assert networks_done(study_folder) == len(record.networks)


def test_an_interrupted_study_resumes(
    study: Study, record: StudyRecord, study_folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(study_folder, copy)
    shutil.rmtree(copy / "ban-seed-0" / "generation-2")
    shutil.rmtree(copy / "seed-1")
    again = conduct(study, "tiny", copy, ProgressBar(quiet=True))
    assert again.model_copy(update={"created": record.created}) == record


def test_a_folder_of_another_study_is_refused(study: Study, record: StudyRecord, study_folder: Path) -> None:
    recipe = study.recipe
    other = study.model_copy(
        update={
            "recipe": recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update={"epochs": 2})})
        }
    )
    with pytest.raises(RunError, match=r"schedule.epochs: expected 1, got 2"):
        conduct(other, "tiny", study_folder, NeverTrains())


def test_a_study_that_could_certify_nothing_is_refused_before_anything_is_written(
    study: Study, tmp_path: Path
) -> None:
    dataset = study.recipe.dataset.model_copy(update={"certify_rows": 5})
    recipe = study.recipe.model_copy(update={"dataset": dataset})

    with pytest.raises(RecipeError, match=r"'balanced': epsilon 0.2 .* at least 14 rows, got 5"):
        conduct(study.model_copy(update={"recipe": recipe}), "tiny", tmp_path, NeverTrains())
    assert list(tmp_path.iterdir()) == []
