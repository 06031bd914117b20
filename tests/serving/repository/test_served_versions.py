"""What is served: its look-up, its close, and no gap for readers while versions swap."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.errors import ModelNotFound
from tests.serving.repository.changing_repository import Repository


@pytest.mark.parametrize("name", ["", "other", "../scripted", "scripted/1", "scripted\0", "x" * 100_000])
def test_a_name_that_is_not_served_is_not_found(place: Repository, name: str) -> None:
    place.publish(1)
    place.rescan()

    with pytest.raises(ModelNotFound, match="Request for unknown model: '"):
        place.repository.get(name)


def test_the_error_for_an_unknown_model_lists_the_served_ones(place: Repository) -> None:
    place.publish(1, "b")
    place.publish(1, "a")
    place.rescan()

    with pytest.raises(ModelNotFound) as error:
        place.repository.get("other")

    assert str(error.value) == "Request for unknown model: 'other' is not found; served: a, b"


def test_the_error_for_an_unknown_model_lists_at_most_ten(place: Repository) -> None:
    for number in range(12):
        place.publish(1, f"m{number:02}")
    place.rescan()

    with pytest.raises(ModelNotFound, match=r"served: m00, m01, .*, m09 and 2 more$"):
        place.repository.get("other")


def test_without_models_the_error_for_an_unknown_one_lists_none(place: Repository) -> None:
    with pytest.raises(ModelNotFound, match=r"; served: none$"):
        place.repository.get("other")


def test_a_version_that_is_not_served_is_not_found(place: Repository) -> None:
    place.publish(1)
    place.publish(2)
    place.rescan()

    with pytest.raises(ModelNotFound, match=r"'scripted' version 1 is not found, served: \[2\]"):
        place.repository.get("scripted", 1)


def test_close_closes_all(place: Repository) -> None:
    place.publish(1)
    place.publish(1, "other")
    place.rescan()

    place.repository.close()

    assert (place.served(), sorted(place.loader.closed)) == ([], ["other/1", "scripted/1"])


def test_a_version_that_is_loaded_after_close_is_closed_at_once(place: Repository) -> None:
    place.publish(1)
    place.repository.close()

    place.rescan()

    assert (place.served(), place.loader.closed) == ([], ["scripted/1"])


def test_a_version_is_always_served_during_a_replacement(place: Repository) -> None:
    place.publish(1)
    place.rescan()
    stop = threading.Event()

    def read() -> int:
        reads = 0
        while not stop.is_set():
            place.repository.get("scripted")
            reads += 1
            stop.wait(1e-4)
        return reads

    with ThreadPoolExecutor(2) as readers:
        reading = [readers.submit(read) for _ in range(2)]
        for number in range(2, 12):
            place.publish(number)
            place.rescan()
        stop.set()

    assert all(future.result() > 0 for future in reading)
