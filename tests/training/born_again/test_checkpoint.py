import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.full_disk import no_room_for_files
from training.born_again.checkpoint import CHECKPOINT_FILE, Checkpoint, CheckpointFolder, EpochResult, Weights
from training.data.splits import DataDigests
from training.errors import RunError
from training.pipeline.folder import RunFolder
from training.recipe.recipe import Recipe

HISTORY = (EpochResult(0.5, (0.25, 0.75)), EpochResult(0.25, (0.5, 1.0)))
CHECKPOINT = Checkpoint(
    generation=1,
    precision="fp32",
    history=HISTORY,
    network={"weight": torch.arange(3.0)},
    hints={"maps.0.weight": torch.arange(2.0)},
    optimizer={"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    generator=torch.Generator().manual_seed(3).get_state(),
)


@pytest.fixture
def checkpoints(tmp_path: Path, tiny_recipe: Recipe) -> CheckpointFolder:
    return checkpoint_folder(tmp_path, tiny_recipe)


def checkpoint_folder(path: Path, recipe: Recipe) -> CheckpointFolder:
    folder = RunFolder(path)
    folder.begin(recipe, DataDigests(dataset="", splits={}))
    return CheckpointFolder(folder, "fp32")


def test_a_checkpoint_comes_back_as_it_was_saved(checkpoints: CheckpointFolder) -> None:
    checkpoints.save_checkpoint(CHECKPOINT)
    loaded = checkpoints.load_checkpoint(1)
    assert loaded is not None
    assert (loaded.generation, loaded.history) == (1, HISTORY)
    assert torch.equal(loaded.network["weight"], CHECKPOINT.network["weight"])
    assert torch.equal(loaded.generator, CHECKPOINT.generator)
    assert loaded.optimizer == CHECKPOINT.optimizer


def test_another_generation_has_no_checkpoint(checkpoints: CheckpointFolder) -> None:
    assert checkpoints.load_checkpoint(1) is None
    checkpoints.save_checkpoint(CHECKPOINT)
    assert checkpoints.load_checkpoint(0) is None


def test_weights_come_back_as_they_were_saved(checkpoints: CheckpointFolder) -> None:
    assert checkpoints.load_weights(2) is None
    checkpoints.save_weights(Weights(2, "fp32", HISTORY, {"weight": torch.arange(3.0)}))
    loaded = checkpoints.load_weights(2)
    assert loaded is not None
    assert loaded.history == HISTORY
    assert torch.equal(loaded.network["weight"], torch.arange(3.0))


def test_a_checkpoint_of_another_recipe_is_refused(
    checkpoints: CheckpointFolder, tmp_path: Path, tiny_recipe: Recipe
) -> None:
    checkpoints.save_checkpoint(CHECKPOINT)
    other = checkpoint_folder(tmp_path / "other", tiny_recipe.with_seed(5))
    shutil.copy(tmp_path / CHECKPOINT_FILE, tmp_path / "other")
    with pytest.raises(RunError, match=r"checkpoint.pt: checkpoint of another recipe: .*seed: expected 5"):
        other.load_checkpoint(1)


def test_a_checkpoint_without_the_exits_section_counts_as_joint_training(
    checkpoints: CheckpointFolder, tmp_path: Path, tiny_recipe: Recipe
) -> None:
    checkpoints.save_checkpoint(CHECKPOINT)
    document = torch.load(tmp_path / CHECKPOINT_FILE)
    document["recipe"] = tiny_recipe.model_dump_json(exclude={"exits"})
    torch.save(document, tmp_path / CHECKPOINT_FILE)

    assert checkpoints.load_checkpoint(1) is not None


def test_a_full_disk_raises_os_error_and_keeps_the_last_checkpoint(
    checkpoints: CheckpointFolder, tmp_path: Path
) -> None:
    checkpoints.save_checkpoint(CHECKPOINT)
    files_before = set(tmp_path.iterdir())
    larger = replace(CHECKPOINT, network={"weight": torch.zeros(20_000)})

    with (
        no_room_for_files(),
        pytest.raises(OSError, match=rf"File too large: '{tmp_path}/{CHECKPOINT_FILE}'"),
    ):
        checkpoints.save_checkpoint(larger)

    kept = checkpoints.load_checkpoint(1)
    assert kept is not None
    assert torch.equal(kept.network["weight"], CHECKPOINT.network["weight"])
    assert set(tmp_path.iterdir()) == files_before


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_truncated_checkpoint_is_refused_in_one_line(
    checkpoints: CheckpointFolder, tmp_path: Path, share: float
) -> None:
    checkpoints.save_checkpoint(CHECKPOINT)
    path = tmp_path / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(RunError, match=r"checkpoint.pt: expected a whole checkpoint, got: ") as caught:
        checkpoints.load_checkpoint(1)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_would_run_code_is_refused(checkpoints: CheckpointFolder, tmp_path: Path) -> None:
    torch.save({"recipe": print, "state": {}}, tmp_path / CHECKPOINT_FILE)
    with pytest.raises(RunError, match=r"expected a whole checkpoint"):
        checkpoints.load_checkpoint(1)
