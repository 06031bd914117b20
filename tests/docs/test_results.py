"""The figures of README, the study's page and the notebook are those of the files that hold them."""

import re

import nbformat
import pytest

from bench.publication import RELEASED, ROOT
from docs.results import PART, RUN, STUDY, Results, certified, pages, read
from serving.repository.manifest import MANIFEST_FILE, Risk
from serving.repository.repository import file_digest
from training.pipeline.folder import RECORD_FILE
from training.study import answers
from training.study.page import files


@pytest.fixture(scope="module")
def results() -> Results:
    return read()


def test_the_pages_results_are_those_of_the_files(results: Results) -> None:
    for page, written in pages(results).items():
        assert PART.replaced(page.read_text(), written) == page.read_text(), "run: make results"


def test_a_point_shows_the_risk_that_its_certificate_bounds(results: Results) -> None:
    point = results.manifest.operating_points["balanced"]
    assert point.certificate is not None
    by_harm = point.model_copy(
        update={"certificate": point.certificate.model_copy(update={"risk": Risk.HARM})}
    )

    assert certified(point).endswith("of answers differ from the full network's")
    assert certified(by_harm).endswith("of answers are wrong where the full network's is right")
    assert certified(results.manifest.operating_points["exact"]) == ""


def test_the_studys_page_and_plots_follow_from_its_counts(results: Results) -> None:
    for name, text in files(results.study).items():
        assert (STUDY / name).read_text() == text, f"{name}: written by another record"


def test_the_released_record_is_of_the_released_version(results: Results) -> None:
    manifest, record = results.manifest, results.record
    assert (record.model, record.version) == (manifest.name, manifest.version)
    chosen = record.generations[record.chosen_generation]
    assert chosen.exits == manifest.exits
    assert chosen.operating_points == manifest.operating_points
    assert record.published == RELEASED.relative_to(ROOT).as_posix()
    assert record.manifest_sha256 == file_digest(RELEASED / MANIFEST_FILE)


def test_no_file_of_a_run_names_the_machine_that_trained() -> None:
    for path in RUN.iterdir():
        assert not re.search(r"""(^|[\s">'])(/[\w.-]+)+/""", path.read_text())
    assert (RUN / RECORD_FILE).exists()


def test_the_notebook_shows_the_studys_answers(results: Results) -> None:
    notebook = nbformat.read(ROOT / "examples" / "self_distillation.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    shown = [
        output.text
        for cell in notebook.cells
        if cell.cell_type == "code" and "study.json" in cell.source
        for output in cell.outputs
        if output.output_type == "stream"
    ]
    study = results.study
    assert shown == [
        "\n".join([answers.claim(study), *answers.by_exit(study), answers.ensembles(study)]) + "\n"
    ]
