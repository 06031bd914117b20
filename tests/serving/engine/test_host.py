import threading
import time

from serving.engine.host import ThreadHost
from tests.serving.live_server import PATIENCE_SECONDS


def test_what_is_to_run_after_runs_without_the_lock() -> None:
    host, ran = ThreadHost(), threading.Event()

    def after() -> None:
        other = threading.Thread(target=host.ask, args=(ran.set,))
        other.start()
        other.join(PATIENCE_SECONDS)

    host.ask(lambda: host.after(after))

    assert ran.is_set()


def test_what_is_added_while_it_runs_is_run_too_and_not_from_within() -> None:
    host = ThreadHost()
    order: list[str] = []

    def first() -> None:
        order.append("first begins")
        host.ask(lambda: host.after(lambda: order.append("second")))
        order.append("first ends")

    host.ask(lambda: host.after(first))

    assert order == ["first begins", "first ends", "second"]


def test_pieces_of_work_never_overlap() -> None:
    host = ThreadHost()
    inside, overlaps = [0], [0]

    def work() -> None:
        inside[0] += 1
        overlaps[0] += inside[0] > 1
        inside[0] -= 1

    threads = [threading.Thread(target=lambda: [host.ask(work) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert overlaps == [0]


def test_an_error_reaches_who_asked_and_leaves_the_host_usable() -> None:
    host = ThreadHost()
    raised = None
    try:
        host.ask(lambda: 1 // 0)
    except ZeroDivisionError as error:
        raised = error

    assert raised is not None
    assert host.ask(lambda: 7) == 7


def test_what_is_to_run_later_runs_then() -> None:
    done = threading.Event()
    asked = time.monotonic()

    ThreadHost().later(0.02, done.set)

    assert done.wait(PATIENCE_SECONDS)
    assert time.monotonic() - asked >= 0.02
