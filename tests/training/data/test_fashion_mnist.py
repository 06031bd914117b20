import functools
import gzip
import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.idx_folder import TEST_LABELS, TRAIN_IMAGES, random_files, write_files
from training.data.fashion_mnist import DEBIAN_FOLDER, OFFICIAL_MIRROR, Mirror, find_or_download
from training.data.registry import load_source
from training.errors import DatasetError

FILES = random_files()
SHA256_OF_FILE = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}

needs_the_package = pytest.mark.skipif(
    not DEBIAN_FOLDER.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed"
)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is inherited
        """Keep the requests out of the test's output."""


@pytest.fixture
def served(tmp_path: Path) -> Path:
    write_files(tmp_path / "served", FILES, gzipped=True)
    return tmp_path / "served"


@pytest.fixture
def mirror(served: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("no_proxy", "*")
    handler = functools.partial(QuietHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Mirror(f"http://127.0.0.1:{server.server_port}/", SHA256_OF_FILE)
        server.shutdown()
        thread.join()


@needs_the_package
def test_the_packaged_dataset_is_read() -> None:
    source = load_source("fashion-mnist", data_dir=str(DEBIAN_FOLDER))
    assert source.official_test is not None
    test_NCHW, test_N = source.official_test
    assert (source.images_NCHW.shape, test_NCHW.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert np.bincount(source.truth_N).tolist() == [6000] * 10
    assert np.bincount(test_N).tolist() == [1000] * 10
    assert [source.labels[number] for number in source.truth_N[:3]] == [
        "Ankle boot",
        "T-shirt/top",
        "T-shirt/top",
    ]


@needs_the_package
def test_the_packaged_files_have_the_expected_digests() -> None:
    digests = {
        name: hashlib.sha256(gzip.decompress((DEBIAN_FOLDER / f"{name}.gz").read_bytes())).hexdigest()
        for name in OFFICIAL_MIRROR.sha256_of_file
    }
    assert digests == OFFICIAL_MIRROR.sha256_of_file


def test_only_the_given_folder_is_searched(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"{tmp_path}: expected {TRAIN_IMAGES} or .*, got neither"):
        load_source("fashion-mnist", data_dir=str(tmp_path))


def test_a_label_that_has_no_name_is_refused_with_its_byte(served: Path) -> None:
    write_files(served, random_files(classes=11), gzipped=True)
    with pytest.raises(DatasetError, match=r"byte 8 \+ 10 uncompressed: expected a label 0..9, got 10"):
        load_source("fashion-mnist", data_dir=str(served))


def test_the_first_complete_folder_is_used_without_a_download(
    tmp_path: Path, served: Path, mirror: Mirror
) -> None:
    (tmp_path / "empty").mkdir()
    folders = (tmp_path / "nowhere", tmp_path / "empty", served)
    assert find_or_download(folders, tmp_path / "cache", mirror) == served
    assert not (tmp_path / "cache").exists()


def test_a_download_is_cached(tmp_path: Path, served: Path, mirror: Mirror) -> None:
    cache = tmp_path / "home" / "cache"
    assert find_or_download((), cache, mirror) == cache
    assert {path.name for path in cache.iterdir()} == {path.name for path in served.iterdir()}
    for path in served.iterdir():
        path.unlink()
    assert find_or_download((), cache, mirror) == cache
    assert load_source("fashion-mnist", data_dir=str(cache)).labels[9] == "Ankle boot"


def test_only_missing_files_are_downloaded(tmp_path: Path, served: Path, mirror: Mirror) -> None:
    cache = find_or_download((), tmp_path / "cache", mirror)
    (cache / f"{TEST_LABELS}.gz").unlink()
    for path in served.iterdir():
        if path.name != f"{TEST_LABELS}.gz":
            path.unlink()
    find_or_download((), cache, mirror)
    assert (cache / f"{TEST_LABELS}.gz").is_file()


def test_a_download_with_another_digest_is_refused_and_not_kept(tmp_path: Path, mirror: Mirror) -> None:
    other_digest = replace(mirror, sha256_of_file=SHA256_OF_FILE | {TRAIN_IMAGES: "00ff"})
    got = SHA256_OF_FILE[TRAIN_IMAGES]
    with pytest.raises(
        DatasetError, match=f"{TRAIN_IMAGES}.gz: expected SHA-256 00ff .*, got {got}; install Debian's"
    ):
        find_or_download((), tmp_path / "cache", other_digest)
    assert not (tmp_path / "cache").exists()


def test_a_download_cut_short_is_refused_and_not_kept(tmp_path: Path, served: Path, mirror: Mirror) -> None:
    path = served / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DatasetError, match=f"{TRAIN_IMAGES}.gz: expected a gzipped file, got: Compressed"):
        find_or_download((), tmp_path / "cache", mirror)
    assert not (tmp_path / "cache").exists()


def test_files_before_a_failed_download_are_kept(tmp_path: Path, served: Path, mirror: Mirror) -> None:
    (served / f"{TEST_LABELS}.gz").unlink()
    with pytest.raises(DatasetError, match=f"{TEST_LABELS}.gz: expected a gzipped file, got: .*404"):
        find_or_download((), tmp_path / "cache", mirror)
    kept = {path.name for path in (tmp_path / "cache").iterdir()}
    assert kept == {f"{name}.gz" for name in FILES if name != TEST_LABELS}


def test_the_error_without_a_network_has_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as bound:  # bound and not listening, so that a connection is refused
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/"
        with pytest.raises(DatasetError) as caught:
            find_or_download((), tmp_path / "cache", Mirror(url, SHA256_OF_FILE))
    message = str(caught.value)
    assert message.startswith(f"{url}{TRAIN_IMAGES}.gz: expected a gzipped file, got: ")
    assert "refused" in message
    assert "install Debian's package dataset-fashion-mnist, or put " in message
    assert message.endswith("into a folder and set dataset.data_dir to it")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, mirror: Mirror) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(
        DatasetError, match=f"{tmp_path / 'cache' / TRAIN_IMAGES}.gz: expected a writable download cache"
    ):
        find_or_download((), tmp_path / "cache", mirror)
