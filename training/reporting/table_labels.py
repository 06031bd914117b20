"""Labels table cells with the name of their column, so that CSS can stack the cells of a row on a phone."""

import html
import re
from itertools import count

_TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
_TAG = re.compile(r"<[^>]+>")
_HEADER = re.compile(r"<th[^>]*>(.*?)</th>", re.DOTALL)
_ROW = re.compile(r"<tr.*?</tr>", re.DOTALL)
_CELL = re.compile(r"<(td|th)>")


def label_cells(page: str) -> str:
    """Return the page with `data-label` on every cell of every table. A table has one header row."""
    return _TABLE.sub(lambda table: _label_table(table[0]), page)


def _label_table(table: str) -> str:
    head, end_of_head, body = table.partition("</thead>")
    labels = [html.escape(html.unescape(_TAG.sub("", text)).strip()) for text in _HEADER.findall(head)]
    return head + end_of_head + _ROW.sub(lambda row: _label_row(row[0], labels), body)


def _label_row(row: str, labels: list[str]) -> str:
    columns = count()
    return _CELL.sub(lambda cell: f'<{cell[1]} data-label="{labels[next(columns)]}">', row)
