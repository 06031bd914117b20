"""Lines of a Markdown table."""


def row(*cells: str) -> str:
    """Return a line of cells."""
    return "| " + " | ".join(cells) + " |"


def rule(columns: int) -> str:
    """Return the line under the head."""
    return "|" + "---|" * columns
