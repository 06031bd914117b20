"""What was measured of attached exits meets what is required of it."""

from bench.attach import PUBLICATION

MEASURED = PUBLICATION.read()


def test_at_exact_every_answer_is_the_files() -> None:
    assert {each.exact_differs for each in MEASURED.served} == {0}


def test_balanced_differs_on_unused_rows_within_twice_its_bound() -> None:
    for each in MEASURED.served:
        assert each.balanced_differs <= 2 * MEASURED.record.settings.epsilon * each.rows
