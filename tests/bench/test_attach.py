"""The page on attached exits shows the recorded measurement, and the measurement meets its aims."""

from bench.attach import DOCS, PAGE, PART, Measurement, lines, plot

MEASURED = Measurement.model_validate_json((DOCS / "fashion-mnist.json").read_text())


def test_the_page_is_written_from_the_measurement() -> None:
    shown = PAGE.read_text().partition(PART.begin)[2].partition(PART.end)[0].strip()

    assert shown == "\n".join(lines(MEASURED))


def test_the_plot_is_drawn_from_the_measurement() -> None:
    assert (DOCS / "fashion-mnist.svg").read_text() == plot(MEASURED.record)


def test_at_exact_every_answer_is_the_files() -> None:
    assert MEASURED.exact_differs == 0
    assert {each.exact_differs for each in MEASURED.served} == {0}


def test_balanced_differs_on_unused_rows_within_twice_its_bound() -> None:
    for each in MEASURED.served:
        assert each.balanced_differs <= 2 * MEASURED.record.settings.epsilon * each.rows
