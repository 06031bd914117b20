"""The command `monitoring`."""

from pathlib import Path

import pytest
import yaml

from serving.commands.monitoring import DEPLOY, FILES
from serving.commands.program import main


def test_the_files_are_those_of_the_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "monitoring"

    assert main(["monitoring", str(folder)], prog="offramp") == 0

    names = [Path(name).name for name in FILES]
    assert capsys.readouterr().out.splitlines() == [str(folder / name) for name in names]
    for name in FILES[1:]:
        assert (folder / Path(name).name).read_bytes() == (DEPLOY / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "target"),
    [
        ((), "127.0.0.1:8002"),
        (("--target", "[::1]:9"), "[::1]:9"),
        (("--target", "host-1.lan:80"), "host-1.lan:80"),
    ],
)
def test_prometheus_scrapes_the_target(tmp_path: Path, words: tuple[str, ...], target: str) -> None:
    assert main(["monitoring", str(tmp_path), *words], prog="offramp") == 0

    (job,) = yaml.safe_load((tmp_path / "prometheus.yaml").read_text())["scrape_configs"]
    assert job == {"job_name": "offramp", "static_configs": [{"targets": [target]}]}


def test_an_existing_file_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rules.yaml").write_text("edited")

    assert main(["monitoring", str(tmp_path)], prog="offramp") == 2

    assert [path.name for path in tmp_path.iterdir()] == ["rules.yaml"]
    assert (tmp_path / "rules.yaml").read_text() == "edited"
    assert capsys.readouterr().err == (
        f"offramp: error: {tmp_path}/rules.yaml: exists already; name another folder, or remove the file\n"
    )


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")

    assert main(["monitoring", str(tmp_path / "file" / "folder")], prog="offramp") == 2

    error = f"offramp: error: {tmp_path}/file/folder: cannot be written: Not a directory\n"
    assert capsys.readouterr().err == error


@pytest.mark.parametrize("target", ["localhost", "a b:80", '"]:80', "host:port"])
def test_a_target_that_is_no_address_is_refused(
    tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["monitoring", str(tmp_path / "folder"), "--target", target], prog="offramp")

    assert f"expected HOST:PORT, got {target!r}" in capsys.readouterr().err
