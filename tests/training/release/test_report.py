import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from training.exits.certify import Certified
from training.release import plots, words
from training.release.report import render, write_report
from training.release.summary import Goal, OperatingPointSummary, RunSummary

NBSP = "\N{NO-BREAK SPACE}"


class Outline(HTMLParser):
    """What a reader sees and what a browser would fetch."""

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
    """Text as `outline` gives it."""
    return " ".join(text.split())


def test_the_page_asks_no_other_host_for_anything(run_summary: RunSummary) -> None:
    page = render(run_summary)

    assert outline(page)[1] == []
    assert not re.search(r"@import|url\((?!#)|<script|<link|<iframe", page)


def test_the_page_opens_with_the_result_and_names_every_part(run_summary: RunSummary) -> None:
    text, _ = outline(render(run_summary))

    assert spaced(words.headline(run_summary)) in text
    for point in run_summary.operating_points:
        assert spaced(words.certificate(point, run_summary.split_rows["certify"])) in text
    for heading in ("generations pay", "accuracy costs", "rows leave", "stage costs", "certificates were"):
        assert heading in text
    assert "models/tiny-digits/1" in text
    assert "test split, n = 300" in text.lower()


def test_what_a_user_wrote_is_shown_and_never_run(run_summary: RunSummary) -> None:
    page = render(run_summary)

    assert "tiny &lt;digits&gt;" in page
    assert "&lt;script&gt;" in page
    assert "<script>" not in page


def test_the_same_run_gives_the_same_page(run_summary: RunSummary) -> None:
    assert render(run_summary) == render(run_summary)


def test_a_report_is_written_over_an_earlier_one(run_summary: RunSummary, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    write_report(path, run_summary)

    assert path.read_text(encoding="utf-8") == render(run_summary)
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("plot", [plots.plot_generations, plots.plot_trade_off, plots.plot_exit_shares])
def test_a_plot_is_one_svg_in_the_pages_own_colours(run_summary: RunSummary, plot: object) -> None:
    assert callable(plot)
    svg = plot(run_summary)

    assert ElementTree.fromstring(svg).tag.endswith("svg")  # noqa: S314 - drawn by us
    assert "var(--ink)" in svg or "var(--muted)" in svg
    assert not re.search(r"#0[12]0[01]0", svg), "a stand-in colour was left"


def test_no_two_elements_of_the_page_have_the_same_id(run_summary: RunSummary) -> None:
    page = render(run_summary)

    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 0
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)


def test_drawing_leaves_matplotlibs_settings_alone(run_summary: RunSummary) -> None:
    before = dict(mpl.rcParams)

    plots.plot_trade_off(run_summary)

    assert dict(mpl.rcParams) == before


def test_one_generation_and_no_teacher_make_a_page_too(run_summary: RunSummary) -> None:
    single = replace(run_summary, generations=run_summary.generations[:1], chosen_generation=0)

    assert "There is one generation, which had no teacher." in outline(render(single))[0]


def test_the_ensemble_of_all_generations_is_a_row_and_a_sentence(run_summary: RunSummary) -> None:
    page = render(run_summary)
    assert "<th>all together</th>" in page
    assert words.proportion(run_summary.ensemble_E[-1]) in words.ensemble(run_summary)
    alone = replace(run_summary, generations=run_summary.generations[:1], chosen_generation=0, ensemble_E=())
    assert "all together" not in render(alone)


def point_named(summary: RunSummary, name: str) -> OperatingPointSummary:
    return next(point for point in summary.operating_points if point.name == name)


def test_a_certificate_is_said_in_plain_words(run_summary: RunSummary) -> None:
    point = point_named(run_summary, "fast")
    assert point.certified is not None
    assert point.certified.certificate is not None

    said = words.certificate(point, 300)

    assert said.startswith(
        f"On data like the certify split, at most 8{NBSP}% of answers differ from the full network's, "
        f"with 95{NBSP}% confidence. It promises agreement, not correctness."
    )
    assert f"{point.certified.certificate.disagreements} of 300 certify rows differ" in said


def test_a_point_that_certified_nothing_says_so_and_why(run_summary: RunSummary) -> None:
    fast = point_named(run_summary, "fast")
    assert fast.certified is not None
    goal = Goal(0.01, 0.015, 0.05)
    nothing = Certified(run_summary.pareto_path[0], None, ())
    failed = Certified(run_summary.pareto_path[0], None, fast.certified.walked[:1])

    too_few = words.certificate(replace(fast, goal=Goal(0.01, 0.005, 0.05), certified=failed), 200)
    none_fast = words.certificate(replace(fast, goal=goal, certified=nothing), 300)
    refused = words.certificate(replace(fast, goal=goal, certified=failed), 300)

    assert too_few == (
        "Certified nothing faster, so it equals exact: 200 certify rows are too few to promise "
        f"at most 0.5{NBSP}% with 95{NBSP}% confidence, whatever they show."
    )
    assert f"no faster row of the path loses at most 1{NBSP}% of accuracy on tune" in none_fast
    assert "the safest faster row already differed on" in refused


def test_full_depth_needs_no_promise(run_summary: RunSummary) -> None:
    said = words.certificate(point_named(run_summary, "exact"), 300)

    assert said == "Every row goes to the final exit: the answer is the full network's by definition."


def test_certificates_together_are_as_sure_as_the_sum_of_their_deltas(run_summary: RunSummary) -> None:
    fast = point_named(run_summary, "fast")
    twice = replace(run_summary, operating_points=(fast, replace(fast, name="faster")))

    assert words.joint_confidence(twice) == (
        f"Each certificate holds alone; the 2 together hold with 90{NBSP}% confidence."
    )
    assert words.joint_confidence(replace(run_summary, operating_points=(fast,))) == ""


def test_a_default_point_at_full_depth_claims_no_saving(run_summary: RunSummary) -> None:
    exact = replace(run_summary, default_operating_point="exact")

    assert words.headline(exact).endswith("of test rows right, each at full depth.")
    assert "multiply-adds" not in words.headline_details(exact)


def test_the_generation_published_is_said_with_its_paired_test(run_summary: RunSummary) -> None:
    first = replace(run_summary, chosen_generation=0)

    assert words.generations(first).startswith("Generation 0 was published: on 247 tune rows no later one")
    assert words.generations(run_summary).startswith(
        "Generation 1 was published: on 247 tune rows it was clearly better"
    )
    assert "300 test rows" in words.claim(run_summary)


@pytest.mark.parametrize(
    ("count", "said"), [(7, "7"), (23_552, "23.6 k"), (1_204_000, "1.2 M"), (3.5e9, "3.5 G")]
)
def test_large_counts_are_said_with_a_thousands_letter(count: float, said: str) -> None:
    assert words.quantity(count) == said


@pytest.mark.parametrize(
    ("share", "said"), [(0.03, "3"), (0.9972, "99.7"), (1.0, "100"), (0.0, "0"), (0.0004, "0.04")]
)
def test_a_share_is_said_in_percent_without_idle_digits(share: float, said: str) -> None:
    assert words.percent(share) == f"{said}{NBSP}%"


@pytest.mark.parametrize(("value", "said"), [(None, "–"), (0.00001, "< 0.001"), (0.0449, "0.045")])  # noqa: RUF001
def test_p_values_are_said_to_three_digits(value: float | None, said: str) -> None:
    assert words.p_value(value) == said
