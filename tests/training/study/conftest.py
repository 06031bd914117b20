"""A small study, and its record after it ran."""

from pathlib import Path

import pytest

from training.born_again.progress import ProgressBar
from training.study.conduct import conduct
from training.study.plan import Study, load_study
from training.study.record import StudyRecord

TINY_STUDY = """
description = "A study too small to say anything"
rules = ["kd", "ban", "dkpp"]
seeds = [0, 1]
repeated_rules = 1

[recipe]
model = "tiny"
threads = 1

[recipe.dataset]
name = "digits"
certify_rows = 200
test_rows = 360

[recipe.architecture]
name = "deep_supervision"
exits = 2
width = 4
heads = [{ grid = 4 }]

[recipe.generations]
count = 3

[recipe.exits]
train = "joint"

[recipe.schedule]
epochs = 1
batch_rows = 128
precision = "fp32"

[recipe.operating_points.balanced]
max_accuracy_loss = 1.0
epsilon = 0.2

[recipe.operating_points.fast]
max_accuracy_loss = 1.0
epsilon = 0.3
"""


@pytest.fixture(scope="session")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "tiny.toml"
    path.write_text(TINY_STUDY)
    return path


@pytest.fixture(scope="session")
def study(study_file: Path) -> Study:
    return load_study(str(study_file))


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conducted")


@pytest.fixture(scope="session")
def record(study: Study, study_folder: Path) -> StudyRecord:
    return conduct(study, "tiny", study_folder, ProgressBar(quiet=True))
