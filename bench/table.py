"""Lines of a Markdown table."""


def row(*cells: str) -> str:
    """Give a line of cells."""
    return "| " + " | ".join(cells) + " |"


def rule(columns: int) -> str:
    """Give the line under the head."""
    return "|" + "---|" * columns
