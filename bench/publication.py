"""A published measurement: its record as JSON, and the page part and plot made from the record."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from training.reporting.markdown import WrittenPart
from training.reporting.record import RecordPart

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
RELEASED = ROOT / "models" / "fashion-mnist" / "3"

Record = TypeVar("Record", bound=RecordPart)


@dataclass(frozen=True)
class Publication(Generic[Record]):
    """Where a measurement is published, and how its page part and plot are made."""

    record_type: type[Record]
    path: Path
    """The published record; the plot lies beside it, as SVG."""
    page: Path
    part: WrittenPart
    lines: Callable[[Record], Iterable[str]]
    plot: Callable[[Record], str] | None = None

    def read(self) -> Record:
        """Read the published record."""
        return self.record_type.read(self.path)

    def write(self, record: Record) -> None:
        """Write the record, the plot and the page part."""
        record.write(self.path)
        if self.plot is not None:
            self.path.with_suffix(".svg").write_text(self.plot(record))
        self.part.write(self.page, self.lines(record))

    def run(self, parser: ArgumentParser, measure: Callable[[Namespace], Record]) -> Record:
        """Run a command: measure, or read an earlier record; then print and write it."""
        published = self.path.relative_to(ROOT)
        parser.add_argument(
            "--output",
            type=Path,
            metavar="FILE.json",
            help=f"write the record only; default: publish {published}",
        )
        parser.add_argument(
            "--publish", type=Path, metavar="FILE.json", help="publish an earlier record; measure nothing"
        )
        options = parser.parse_args()
        record = self.record_type.read(options.publish) if options.publish else measure(options)
        print("\n".join(self.lines(record)))
        if options.output is None:
            self.write(record)
        else:
            record.write(options.output)
        return record
