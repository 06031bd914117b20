import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.errors import DigestMismatch, InvalidManifest
from serving.files import lock_file
from serving.repository.manifest import (
    FORMAT_VERSION,
    Certificate,
    DatasetProvenance,
    Exit,
    Manifest,
    OperatingPoint,
    ParetoPath,
    ParetoPoint,
    Provenance,
)
from serving.repository.repository import file_digest, find_versions, read_version
from tests.training.release.tiny_run import IMAGE
from training.errors import Uncertified
from training.release.exported_stage import ExportedStage
from training.release.publish import PublishResult, check_certified, publish, stage_entry

Exported = tuple[ExportedStage, ...]


def manifest_of(
    exported: Exported, version: int, name: str = "tiny", *, run_id: str | None = None
) -> Manifest:
    nothing_off = (None,) * (len(exported) - 1)
    return Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        version=version,
        created="2025-01-02T03:04:05Z",
        labels=tuple("0123456789"),
        inputs=(IMAGE,),
        confidence="max_probability",
        stages=tuple(stage_entry(stage) for stage in exported),
        exits=tuple(
            Exit(calibration_temperature=1, accuracy=0.5, expected_calibration_error=0.1, split="test", n=9)
            for _ in exported
        ),
        operating_points={
            "exact": OperatingPoint(
                thresholds=nothing_off,
                accuracy=0.5,
                disagreement=0,
                multiply_adds_share=1,
                exit_shares=(0,) * (len(exported) - 1) + (1,),
                split="test",
                n=9,
                certificate=None,
            )
        },
        default_operating_point="exact",
        pareto_path=ParetoPath(
            split="tune",
            n=9,
            points=(
                ParetoPoint(thresholds=nothing_off, accuracy_loss=0, disagreement=0, multiply_adds_share=1),
            ),
        ),
        provenance=Provenance(
            recipe={},
            seed=0,
            generation=0,
            dataset=DatasetProvenance(
                name="digits", digest="0" * 64, split_seed=0, split_digests={}, test_rows=(1, 2)
            ),
            packages={},
            run_id=run_id,
        ),
    )


def paths(exported: Exported) -> list[Path]:
    return [stage.file.path for stage in exported]


def publish_tiny(
    models: Path, exported: Exported, make_manifest: Callable[[int], Manifest] | None = None
) -> Path:
    return publish(
        models,
        "tiny",
        make_manifest or (lambda version: manifest_of(exported, version, run_id=uuid.uuid4().hex)),
        paths(exported),
    ).folder


def entries(models: Path) -> set[str]:
    return {str(path.relative_to(models)) for path in models.rglob("*")}


def test_a_published_version_is_one_that_a_server_reads(exported: Exported, tmp_path: Path) -> None:
    folder = publish_tiny(tmp_path / "models", exported)

    assert folder == tmp_path / "models" / "tiny" / "1"
    manifest = read_version(folder).manifest
    assert manifest == manifest_of(exported, 1, run_id=manifest.provenance.run_id)
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json",
        "stage-0.onnx",
        "stage-1.onnx",
        "stage-2.onnx",
    }
    assert entries(tmp_path / "models") == {"tiny", "tiny/1", *(f"tiny/1/{p.name}" for p in folder.iterdir())}


def test_a_stage_entry_has_the_digest_of_its_file(exported: Exported) -> None:
    entry = stage_entry(exported[1])

    assert entry.file == "stage-1.onnx"
    assert entry.sha256 == file_digest(exported[1].file.path)
    assert (entry.multiply_adds, entry.parameters) == (exported[1].multiply_adds, exported[1].parameters)
    assert entry.features == exported[1].file.features


def test_the_next_version_is_one_above_the_highest(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "tiny" / "41").mkdir(parents=True)
    (tmp_path / "tiny" / "007").mkdir()
    (tmp_path / "tiny" / "notes").mkdir()

    assert publish_tiny(tmp_path, exported).name == "42"


def test_a_version_published_meanwhile_is_kept_and_the_next_number_taken(
    exported: Exported, tmp_path: Path
) -> None:
    asked = []

    def make_manifest(version: int) -> Manifest:
        asked.append(version)
        if len(asked) == 1:
            publish_tiny(tmp_path, exported)
        return manifest_of(exported, version)

    folder = publish_tiny(tmp_path, exported, make_manifest)

    assert asked == [1, 2]
    assert folder.name == "2"
    assert find_versions(tmp_path) == {"tiny": [1, 2]}


def test_concurrent_publishers_get_different_versions(exported: Exported, tmp_path: Path) -> None:
    published: list[Path] = []
    threads = [
        threading.Thread(target=lambda: published.append(publish_tiny(tmp_path, exported))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(folder.name for folder in published) == list("123456")
    assert all(read_version(folder) for folder in published)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


RUN = "ab" * 16


def publish_as(models: Path, exported: Exported, run_id: str | None) -> PublishResult:
    return publish(
        models, "tiny", lambda version: manifest_of(exported, version, run_id=run_id), paths(exported)
    )


@pytest.mark.parametrize("run_id", [RUN, None], ids=["of a run", "of no run"])
def test_a_version_that_exists_before_later_ones_is_not_published_again(
    exported: Exported, tmp_path: Path, run_id: str | None
) -> None:
    first = publish_as(tmp_path, exported, run_id)
    publish_as(tmp_path, exported, "cd" * 16)

    again = publish_as(tmp_path, exported, run_id)

    assert (first, again) == (
        PublishResult(tmp_path / "tiny" / "1", True),
        PublishResult(first.folder, False),
    )
    assert find_versions(tmp_path) == {"tiny": [1, 2]}


def test_a_version_of_the_same_run_with_other_stages_does_not_count(
    exported: Exported, tmp_path: Path
) -> None:
    publish_as(tmp_path, exported, RUN)
    assert publish_as(tmp_path, exported[:1] + exported[2:], RUN) == PublishResult(
        tmp_path / "tiny" / "2", True
    )


def test_a_damaged_version_does_not_count(exported: Exported, tmp_path: Path) -> None:
    (publish_as(tmp_path, exported, RUN).folder / "stage-0.onnx").write_bytes(b"")
    assert publish_as(tmp_path, exported, RUN) == PublishResult(tmp_path / "tiny" / "2", True)


def test_the_next_publisher_removes_only_drafts_of_killed_publishers(
    exported: Exported, tmp_path: Path
) -> None:
    home = tmp_path / "tiny"
    for name in (".publishing-dead", ".publishing-living", ".publishing-before-locks"):
        (home / name / "tiny" / "1").mkdir(parents=True)
    with lock_file(home / ".publishing-living" / "lock") as lock:  # type: ignore[union-attr]
        assert lock is not None
        (home / ".publishing-dead" / "lock").touch()

        publish_tiny(tmp_path, exported)

        assert {path.name for path in home.iterdir()} == {"1", ".publishing-living"}


def test_nothing_is_left_if_the_manifest_cannot_be_made(exported: Exported, tmp_path: Path) -> None:
    def make_manifest(version: int) -> Manifest:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish_tiny(tmp_path, exported, make_manifest)

    assert entries(tmp_path) == set()


def test_nothing_is_left_if_a_stage_differs_from_its_entry(exported: Exported, tmp_path: Path) -> None:
    swapped = [exported[1], exported[0], exported[2]]

    with pytest.raises(DigestMismatch, match="sha256: expected"):
        publish(tmp_path, "tiny", lambda version: manifest_of(exported, version), paths(tuple(swapped)))

    assert entries(tmp_path) == set()


def test_nothing_is_left_if_a_stage_file_is_missing(exported: Exported, tmp_path: Path) -> None:
    gone = [*paths(exported)[:2], tmp_path / "gone.onnx"]

    with pytest.raises(FileNotFoundError, match=r"gone\.onnx"):
        publish(tmp_path, "tiny", lambda version: manifest_of(exported, version), gone)

    assert entries(tmp_path) == set()


def test_nothing_is_left_if_the_model_folder_cannot_be_made(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "tiny").write_text("a file, not a folder")

    with pytest.raises(FileExistsError):
        publish_tiny(tmp_path, exported)

    assert entries(tmp_path) == {"tiny"}


def test_a_manifest_of_another_name_or_version_is_refused(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="expected tiny/1 as in the path, got other/1"):
        publish_tiny(tmp_path, exported, lambda version: manifest_of(exported, version, "other"))
    with pytest.raises(InvalidManifest, match="expected tiny/1 as in the path, got tiny/2"):
        publish_tiny(tmp_path, exported, lambda version: manifest_of(exported, version + 1))


def test_a_wrong_number_of_stage_files_is_refused(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one per stage, 3, got 2"):
        publish(tmp_path, "tiny", lambda version: manifest_of(exported, version), paths(exported)[:2])


@pytest.mark.parametrize("name", ["", "../tiny", ".hidden", "a/b"])
def test_an_invalid_model_name_is_refused(exported: Exported, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"model name: expected .* got '{name}'"):
        publish(tmp_path / "models", name, lambda version: manifest_of(exported, version), paths(exported))

    assert entries(tmp_path) == set()


def with_point(manifest: Manifest, **changes: object) -> Manifest:
    faster = manifest.operating_points["exact"].model_copy(update={"thresholds": (0.9, None)} | changes)
    return manifest.model_copy(update={"operating_points": manifest.operating_points | {"fast": faster}})


def test_a_faster_point_without_a_certificate_is_refused_by_name(exported: Exported) -> None:
    with pytest.raises(
        Uncertified, match=r"^operating point 'fast' of tiny: expected a certificate, .* got none"
    ):
        check_certified(with_point(manifest_of(exported, 1)), waived=["balanced"])


def test_certified_full_depth_and_waived_points_may_be_published(exported: Exported) -> None:
    plain = manifest_of(exported, 1)
    certificate = Certificate(epsilon=0.1, delta=0.1, n=9, disagreements=0, method="by hand", harms=0)
    for manifest, waived in (
        (plain, []),
        (with_point(plain, thresholds=(None, None)), []),
        (with_point(plain, certificate=certificate), []),
        (with_point(plain), ["fast"]),
    ):
        assert check_certified(manifest, waived=waived) is manifest
