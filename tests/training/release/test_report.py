import math
import re
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from training.exits.reliability import Bin
from training.release import plots, promises, reliability_plots, words
from training.release.report import render, write_report
from training.release.summary import RunSummary, rows_of_each_percent
from training.reporting import numerals
from training.reporting.drawing import ACCENT, GRID
from training.reporting.table_labels import label_cells


class Outline(HTMLParser):
    """Collects the visible text and the URLs that a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            is_elsewhere = value is not None and not value.startswith("#")
            if name in {"src", "href", "xlink:href", "srcset", "action", "data"} and is_elsewhere:
                self.fetched.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def outline(page: str) -> tuple[str, list[str]]:
    parser = Outline()
    parser.feed(page)
    text = " ".join("".join(parser.text).split())
    return text.replace("\N{NON-BREAKING HYPHEN}", "-"), parser.fetched


def spaced(text: str) -> str:
    """Normalise spaces as `outline` does."""
    return " ".join(text.split())


def test_the_page_loads_nothing_from_other_hosts(page: str) -> None:
    assert outline(page)[1] == []
    assert not re.search(r"@import|url\((?!#)|<script|<link|<iframe", page)


def test_the_page_opens_with_the_result_and_names_every_part(page: str, run_summary: RunSummary) -> None:
    text, _ = outline(page)

    assert spaced(words.headline(run_summary)) in text
    for point in run_summary.operating_points:
        assert spaced(promises.of_point(point.goal, point.certified)) in text
    for heading in (
        "later generations improve",
        "Accuracy and cost",
        "exit rows leave",
        "reliable is the confidence",
        "Cost of each stage",
        "certificates were tested",
    ):
        assert heading in text
    assert "models/tiny-digits/1" in text
    assert "test split, n = 300" in text.lower()


def test_text_from_a_user_is_shown_and_never_executed(page: str) -> None:
    assert "tiny &lt;digits&gt;" in page
    assert "&lt;script&gt;" in page
    assert "<script>" not in page


def test_the_same_run_gives_the_same_page(page: str, run_summary: RunSummary) -> None:
    assert render(run_summary) == page


def test_a_report_is_written_over_an_earlier_one(page: str, run_summary: RunSummary, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    write_report(path, run_summary)

    assert path.read_text(encoding="utf-8") == page
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    "plot",
    [
        plots.plot_generations,
        plots.plot_trade_off,
        plots.plot_exit_shares,
        reliability_plots.plot_reliability,
        reliability_plots.plot_risk_coverage,
    ],
)
def test_a_plot_is_a_wide_and_a_narrow_svg_in_the_pages_own_colours(
    run_summary: RunSummary, plot: object
) -> None:
    assert callable(plot)
    svg = plot(run_summary)

    wide, narrow = ElementTree.fromstring(svg)  # noqa: S314 - our own SVG
    assert [(part.get("class"), part[0].tag.endswith("svg")) for part in (wide, narrow)] == [
        ("wide", True),
        ("narrow", True),
    ]
    assert "var(--ink)" in svg or "var(--muted)" in svg
    assert not re.search(r"#0[12]0[01]0", svg), "a stand-in colour was left"


def test_small_bins_are_grey_and_not_connected(run_summary: RunSummary) -> None:
    """Exit 0 has a well-filled bin and small ones; without small bins the plot has fewer grey marks."""
    bins = run_summary.exits[0].every_row.after.bins
    limit = reliability_plots.FEWEST_BIN_ROWS
    assert any(0 < each.rows < limit for each in bins)
    assert any(each.rows >= limit for each in bins)

    figure = Figure()
    curve_axes, count_axes = figure.subplots(2, 1)
    reliability_plots.draw_bins(curve_axes, count_axes, run_summary.exits[0].every_row, ACCENT)

    *_, grey, connected = curve_axes.get_lines()
    assert (grey.get_linestyle(), grey.get_color()) == ("None", GRID)
    assert (connected.get_linestyle(), connected.get_color()) == ("-", ACCENT)
    assert len(grey.get_xdata()) == sum(0 < each.rows < limit for each in bins)
    assert len(connected.get_xdata()) == sum(each.rows >= limit for each in bins)


def test_an_exit_whose_bins_are_all_small_has_a_reliability_plot(run_summary: RunSummary) -> None:
    """The layout of the figure once failed on a line without points."""
    first, *others = run_summary.exits
    bins = tuple(Bin(min(each.rows, 1), 0, 0.5) for each in first.every_row.after.bins)
    small = replace(first.every_row.after, bins=bins)
    exits = (replace(first, every_row=replace(first.every_row, before=small, after=small)), *others)

    assert reliability_plots.plot_reliability(replace(run_summary, exits=exits)).count("<svg") == 2


def test_the_mark_of_exact_does_not_hide_the_final_exit(run_summary: RunSummary) -> None:
    svg = plots.plot_trade_off(run_summary)

    assert "all rows at final exit, test" in svg
    assert plots.EXIT_MARK_SIZE > plots.POINT_MARK_SIZE


def test_warnings_and_the_plan_are_shown_as_text(page: str, run_summary: RunSummary) -> None:
    text, _ = outline(page)

    assert "Warnings exit 0 is hardly better than <chance>. " in text
    assert "2 generations of 6 epochs" in text
    assert "rows with the image of an earlier row: 12" in text
    assert "<chance>" not in page
    assert "Warnings" not in outline(render(replace(run_summary, warnings=())))[0]


def test_a_cell_has_the_name_of_its_column() -> None:
    page = (
        "<table><thead><tr><th>exit</th><th><b>a</b> &lt; b</th></tr></thead>"
        '<tbody><tr class="x"><th>0</th><td>1</td></tr></tbody></table><td>outside</td>'
    )
    assert label_cells(page).endswith(
        '<tr class="x"><th data-label="exit">0</th><td data-label="a &lt; b">1</td></tr>'
        "</tbody></table><td>outside</td>"
    )


def test_no_two_elements_of_the_page_have_the_same_id(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 0
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)


def test_each_exits_reliability_is_shown_for_all_rows_and_for_those_that_arrive(
    page: str,
    run_summary: RunSummary,
) -> None:
    text, _ = outline(page)

    for each in run_summary.exits:
        assert each.every_row.after.n == 300
        for measured in (each.every_row, each.arriving):
            if measured is not None:
                before, after = (
                    numerals.decimal(side.risk_coverage_area, 4) for side in (measured.before, measured.after)
                )
                assert f"{before} → {after}" in text
    first, *later = run_summary.exits
    assert first.arriving is None, "all rows arrive at exit 0"
    arriving = [each.arriving.after.n if each.arriving else 0 for each in later]
    assert arriving == sorted(arriving, reverse=True)
    assert page.count('<td data-label="rows">that arrive</td>') == len(later)


def test_each_calibration_error_has_its_error_by_chance(
    page: str,
    run_summary: RunSummary,
) -> None:
    text, _ = outline(page)

    for each in run_summary.exits:
        measured = each.arriving or each.every_row
        assert spaced(numerals.measured(measured.error_by_chance)) in text
    assert "<th>by chance</th>" in page


@pytest.mark.parametrize("rows", [1, 99, 100, 360, 10_000])
def test_each_percent_of_the_rows_is_counted_without_the_errors_of_floating_point(rows: int) -> None:
    percents = range(1, 101)

    counted = rows_of_each_percent(rows).tolist()

    assert counted == [math.ceil(Fraction(percent * rows, 100)) for percent in percents]


def test_an_exit_at_which_no_row_arrives_has_a_line_of_dashes(run_summary: RunSummary) -> None:
    *others, last = run_summary.exits
    without_rows = replace(run_summary, exits=(*others, replace(last, arriving=None)))

    page = re.sub(r' data-label="[^"]*"', "", render(without_rows))
    assert re.search(r"<td>0</td><td></td>(<td>–</td>){5}", page)  # noqa: RUF001


def test_reliability_diagrams_have_a_panel_an_exit_in_rows_of_four(run_summary: RunSummary) -> None:
    six = replace(run_summary, exits=run_summary.exits * 2)

    svg = reliability_plots.plot_reliability(six)

    shown = re.findall(r">(exit \d|final exit)<", svg)
    assert shown == 2 * ["exit 0", "exit 1", "exit 2", "exit 3", "exit 4", "final exit"]


def test_drawing_leaves_matplotlibs_settings_alone(run_summary: RunSummary) -> None:
    before = dict(mpl.rcParams)

    plots.plot_trade_off(run_summary)

    assert dict(mpl.rcParams) == before


def test_a_run_of_one_generation_has_a_page(run_summary: RunSummary) -> None:
    single = replace(run_summary, generations=run_summary.generations[:1], chosen_generation=0, ensemble_E=())
    page = render(single)

    assert "The recipe trains one generation, without a teacher." in outline(page)[0]
    assert "Gain of the final exit" not in page
    assert "mean of all" not in page


def test_the_ensemble_of_all_generations_is_a_row_and_a_sentence(page: str, run_summary: RunSummary) -> None:
    assert ">mean of all</th>" in page
    assert numerals.proportion(run_summary.ensemble_E[-1]) in words.ensemble(run_summary)


def test_a_default_point_at_full_depth_claims_no_saving(run_summary: RunSummary) -> None:
    exact = replace(run_summary, default_operating_point="exact")

    assert words.headline(exact).startswith("tiny-digits saves nothing: exact answers ")
    assert words.headline(exact).endswith("of test rows correctly, all at full depth.")
    assert "multiply-adds" not in words.headline_details(exact)


def test_the_published_generation_is_named_with_its_paired_test(run_summary: RunSummary) -> None:
    first = replace(run_summary, chosen_generation=0)

    assert words.generations(first).startswith(
        "Generation 0 was published. On 247 tune rows, no later generation"
    )
    assert words.generations(run_summary).startswith(
        "Generation 1 was published. On 247 tune rows, it was significantly better"
    )
    assert "300 test rows" in words.claim(run_summary)
