"""Served versions: their look-up, their close, and no gap for readers during a replacement."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.errors import ModelNotFound
from tests.serving.repository.changing_repository import Repository


@pytest.mark.parametrize("name", ["", "other", "../scripted", "scripted/1", "scripted\0", "x" * 100_000])
def test_a_name_that_is_not_served_is_not_found(repo: Repository, name: str) -> None:
    repo.publish(1)
    repo.rescan()

    with pytest.raises(ModelNotFound, match="Request for unknown model: '"):
        repo.repository.get(name)


def test_the_error_for_an_unknown_model_lists_the_served_ones(repo: Repository) -> None:
    repo.publish(1, "b")
    repo.publish(1, "a")
    repo.rescan()

    with pytest.raises(ModelNotFound) as error:
        repo.repository.get("other")

    assert str(error.value) == "Request for unknown model: 'other' is not found; served: a, b"


def test_the_error_for_an_unknown_model_lists_at_most_ten(repo: Repository) -> None:
    for number in range(12):
        repo.publish(1, f"m{number:02}")
    repo.rescan()

    with pytest.raises(ModelNotFound, match=r"served: m00, m01, .*, m09 and 2 more$"):
        repo.repository.get("other")


def test_without_models_the_error_for_an_unknown_one_lists_none(repo: Repository) -> None:
    with pytest.raises(ModelNotFound, match=r"; served: none$"):
        repo.repository.get("other")


def test_a_version_that_is_not_served_is_not_found(repo: Repository) -> None:
    repo.publish(1)
    repo.publish(2)
    repo.rescan()

    with pytest.raises(ModelNotFound, match=r"'scripted' version 1 is not found, served: \[2\]"):
        repo.repository.get("scripted", 1)


def test_close_closes_all(repo: Repository) -> None:
    repo.publish(1)
    repo.publish(1, "other")
    repo.rescan()

    repo.repository.close()

    assert (repo.served(), sorted(repo.loader.closed)) == ([], ["other/1", "scripted/1"])


def test_a_version_that_is_loaded_after_close_is_closed_at_once(repo: Repository) -> None:
    repo.publish(1)
    repo.repository.close()

    repo.rescan()

    assert (repo.served(), repo.loader.closed) == ([], ["scripted/1"])


def test_a_version_is_always_served_during_a_replacement(repo: Repository) -> None:
    repo.publish(1)
    repo.rescan()
    stop = threading.Event()

    def read() -> int:
        reads = 0
        while not stop.is_set():
            repo.repository.get("scripted")
            reads += 1
            stop.wait(1e-4)
        return reads

    with ThreadPoolExecutor(2) as readers:
        reading = [readers.submit(read) for _ in range(2)]
        for number in range(2, 12):
            repo.publish(number)
            repo.rescan()
        stop.set()

    assert all(future.result() > 0 for future in reading)
