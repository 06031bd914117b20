"""Reads the names of metrics and labels from PromQL expressions. Not a parser: it knows what we write."""

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
TARGET_LABELS = frozenset({"job", "instance"})
KEYWORDS = {"and", "or", "unless", "by", "on", "ignoring", "without", "group_left", "group_right", "offset"}
SELECTOR = re.compile(rf"({NAME})\s*{{([^}}]*)}}")
GROUPING = re.compile(r"\b(?:by|on|ignoring|without|group_left|group_right)\s*\(([^)]*)\)")


@dataclass(frozen=True)
class Names:
    """The names in an expression."""

    metrics: frozenset[str]
    matched: frozenset[tuple[str, str]]
    """Pairs of a metric and a label that it is filtered by."""
    grouped: frozenset[str]
    """Labels that series are grouped or joined by."""


def names(expression: str) -> Names:
    """Return the names in an expression."""
    matched = frozenset(
        (metric, label)
        for metric, matchers in SELECTOR.findall(expression)
        for label in re.findall(rf'({NAME})\s*(?:=~|!~|!=|=)\s*"', matchers)
    )
    grouped = frozenset(label for labels in GROUPING.findall(expression) for label in _split(labels))
    rest = GROUPING.sub(" ", SELECTOR.sub(r" \1 ", expression))
    rest = re.sub(r"\[[^\]]*\]|\boffset\s+\w+", " ", rest)
    metrics = frozenset(re.findall(rf"(?<![\w.])({NAME})\b(?!\s*\()", rest)) - KEYWORDS
    return Names(metrics, matched, grouped)


def unknown_names(expression: str, known: Mapping[str, Set[str]]) -> set[str]:
    """Return the metrics and labels of an expression that are unknown.

    known: the labels of each metric. Prometheus adds `job` and `instance` to all.
    """
    used = names(expression)
    assert used.metrics, expression
    labels = {metric: TARGET_LABELS | known.get(metric, set()) for metric in used.metrics}
    unknown = {label for metric, label in used.matched if label not in labels[metric]}
    unknown |= used.grouped - TARGET_LABELS.union(*labels.values())
    return unknown | (used.metrics - known.keys())


def _split(labels: str) -> Iterator[str]:
    return (label.strip() for label in labels.split(",") if label.strip())
