"""The page of a study: it follows from the counts alone."""

from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from training.study import answers
from training.study.page import PAGE_FILE, RECORD_FILE, files, write_study
from training.study.record import Paired, StudyNetwork, StudyRecord


def with_right(network: StudyNetwork, right: int) -> StudyNetwork:
    return network.model_copy(update={"right": (*network.right[:-1], right)})


def with_line(record: StudyRecord, rule: str, finals: list[int]) -> StudyRecord:
    """Set the correct counts of the final exits of a line, with generation 0."""
    networks = tuple(
        with_right(each, finals[each.generation])
        if each.seed == 0 and each.rule in {None, rule}
        else with_right(each, 0)
        if each.generation
        else each
        for each in record.networks
    )
    return record.model_copy(update={"networks": networks})


@pytest.fixture(scope="module")
def shown(record: StudyRecord) -> dict[str, str]:
    """The files of the page, by name."""
    return files(record)


def test_every_file_follows_from_the_record_alone(
    record: StudyRecord, shown: dict[str, str], tmp_path: Path
) -> None:
    page = write_study(tmp_path / "page", record)
    read = StudyRecord.model_validate_json((page.parent / RECORD_FILE).read_bytes())
    assert read == record
    written = {path.name: path.read_text() for path in page.parent.iterdir()}
    assert written == shown


def test_the_page_shows_every_network_and_every_plot(record: StudyRecord, shown: dict[str, str]) -> None:
    page = shown[PAGE_FILE]
    for rule, seed, line in record.lines():
        for network in line[1:]:
            assert f"| `{rule}` | {seed} | {network.generation} | " in page
    for name in shown:
        if name.endswith(".svg"):
            assert f"]({name})" in page
            ElementTree.fromstring(shown[name])  # noqa: S314 - our own SVG
            assert "var(--" not in shown[name]
            assert "#0101" not in shown[name]
            assert "#0200" not in shown[name]
    assert "python -m training study tiny" in page
    assert f"test n = {record.n}" in page


def test_tables_have_as_many_cells_in_every_row(shown: dict[str, str]) -> None:
    lines = shown[PAGE_FILE].splitlines()
    for above, below in pairwise(lines):
        if above.startswith("|") and below.startswith("|"):
            assert above.count("|") == below.count("|"), below


@pytest.mark.parametrize(
    ("finals", "held"), [([10, 11, 12], True), ([10, 12, 11], False), ([10, 10, 12], False)]
)
def test_the_claim_holds_only_where_every_generation_gains(
    record: StudyRecord, finals: list[int], held: bool
) -> None:
    record = with_line(record, "ban", finals)
    assert answers.rises(record.line("ban", 0)) == held
    assert ("`ban` with seed 0" in answers.claim(record)) == held


def test_a_gain_is_significant_only_if_its_interval_is_above_0(record: StudyRecord) -> None:
    line = record.line("ban", 0)
    clear, unclear = Paired(gained=60, lost=10, n=360), Paired(gained=12, lost=10, n=360)
    for steps, expected in (((clear, clear), True), ((clear, unclear), False)):
        later = [
            each.model_copy(update={"over_teacher": (step,) * record.exits})
            for each, step in zip(line[1:], steps, strict=True)
        ]
        assert answers.rises_clearly([line[0], *later]) is expected


def test_a_mean_gain_is_over_all_seeds_of_a_rule(record: StudyRecord) -> None:
    rule = record.repeated_rules[0]
    expected = [
        (record.line(rule, seed)[2].right[0] - record.first(seed).right[0]) / record.n
        for seed in record.study.seeds
    ]
    assert answers.mean_gain(record, rule, 2, 0) == pytest.approx(sum(expected) / 2)
