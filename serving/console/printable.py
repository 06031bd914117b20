"""Text that somebody else wrote, as it may be printed on a terminal.

Escape sequences, C1 controls, bidirectional overrides and line separators could hide or forge lines there,
or drive the terminal. They are printed as Python escapes them. Unlike `serving.errors.shown`, which shortens
values in messages, this keeps the whole text.
"""


def printable(text: str) -> str:
    """Return a text as one line of printable characters; all others are escaped."""
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def printable_lines(text: str) -> str:
    """Return a text with its line ends and tabs; a carriage return, as of progress bars, ends a line too."""
    return "".join(each if each in "\n\t" else printable(each) for each in text.replace("\r", "\n"))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
