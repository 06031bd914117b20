"""The published folder of a study: a Markdown page, its plots and the counts.

The record alone determines the bytes of the page and the plots.
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from serving.files import atomic_write
from training.reporting import numerals
from training.study import answers, plots
from training.study.record import StudyRecord

RECORD_FILE = "study.json"
PAGE_FILE = "README.md"
_TEMPLATE = "page.md"


def write_study(folder: Path, record: StudyRecord) -> Path:
    """Write record, plots and page into a folder; return the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files(record).items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    return folder / PAGE_FILE


def files(record: StudyRecord) -> dict[str, str]:
    """Build every file of the folder, by name."""
    return {
        RECORD_FILE: record.model_dump_json(indent=1) + "\n",
        "accuracy.svg": plots.plot_accuracy(record),
        "gains.svg": plots.plot_gains(record),
        "ensembles.svg": plots.plot_ensembles(record),
        "early-leaving.svg": plots.plot_early_leaving(record),
        PAGE_FILE: _environment().get_template(_TEMPLATE).render(record=record),
    }


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701 - Markdown, not HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(numerals=numerals, answers=answers)
    environment.filters["code"] = lambda text: f"`{text}`"
    return environment
