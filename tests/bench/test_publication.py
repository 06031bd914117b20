"""Published records: pages and plots follow from them, and they are small."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import pytest

from bench import attach, exit_rules, frontier, monitor, slowdown
from bench.gpu.record import PUBLICATION as GPU
from bench.publication import Publication
from bench.serving.page import PUBLICATION as SERVING
from bench.soak.record import PUBLICATION as SOAK
from training.reporting.markdown import WrittenPart
from training.reporting.record import RecordPart

PUBLICATIONS = [
    SERVING,
    GPU,
    SOAK,
    attach.PUBLICATION,
    frontier.PUBLICATION,
    exit_rules.PUBLICATION,
    monitor.PUBLICATION,
    slowdown.PUBLICATION,
]
LARGEST_BYTES = 30_000


@pytest.fixture(params=PUBLICATIONS, ids=lambda each: each.part.name)
def publication(request: pytest.FixtureRequest) -> Publication[Any]:
    published: Publication[Any] = request.param
    return published


def test_the_page_follows_from_the_record(publication: Publication[Any]) -> None:
    page, lines = publication.page.read_text(), publication.lines(publication.read())

    assert publication.part.replaced(page, lines) == page, f"run {publication.part.command} --publish"


@pytest.mark.parametrize("publication", [attach.PUBLICATION, frontier.PUBLICATION])
def test_the_plot_follows_from_the_record(publication: Publication[Any]) -> None:
    assert publication.plot is not None

    assert publication.path.with_suffix(".svg").read_text() == publication.plot(publication.read())


def test_a_record_is_small(publication: Publication[Any]) -> None:
    assert publication.path.stat().st_size < LARGEST_BYTES


class Count(RecordPart):
    count: int


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publication[Count]:
    monkeypatch.setattr("bench.publication.ROOT", tmp_path)
    page = tmp_path / "page.md"
    part = WrittenPart("count", "python -m count")
    page.write_text(f"before\n{part.begin}\nold\n{part.end}\nafter\n")
    return Publication(
        record_type=Count,
        path=tmp_path / "count.json",
        page=page,
        part=part,
        lines=lambda record: [f"counted {record.count}"],
        plot=lambda record: f"<svg>{record.count}</svg>",
    )


def measure_three(_: Namespace) -> Count:
    return Count(count=3)


def test_a_command_measures_and_publishes(
    counted: Publication[Count], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["count"])

    counted.run(ArgumentParser(), measure_three)

    assert counted.read() == Count(count=3)
    assert counted.path.with_suffix(".svg").read_text() == "<svg>3</svg>"
    assert counted.page.read_text() == (
        f"before\n{counted.part.begin}\ncounted 3\n{counted.part.end}\nafter\n"
    )
    assert capsys.readouterr().out == "counted 3\n"


def test_with_output_only_the_record_is_written(
    counted: Publication[Count], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = counted.page.read_text()
    monkeypatch.setattr("sys.argv", ["count", "--output", str(tmp_path / "other.json")])

    counted.run(ArgumentParser(), measure_three)

    assert Count.read(tmp_path / "other.json") == Count(count=3)
    assert not counted.path.exists()
    assert counted.page.read_text() == page


def test_an_earlier_record_is_published_without_measuring(
    counted: Publication[Count], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Count(count=7).write(tmp_path / "earlier.json")
    monkeypatch.setattr("sys.argv", ["count", "--publish", str(tmp_path / "earlier.json")])

    counted.run(ArgumentParser(), measure_three)

    assert counted.read() == Count(count=7)
    assert "counted 7" in counted.page.read_text()
