"""Escaping of untrusted text before it is printed on a terminal.

Escape sequences, C1 controls, bidirectional overrides and line separators could control the terminal, or hide
and forge lines. They are printed as Python's escapes. Unlike `serving.errors.shown`, which shortens values in
messages, this keeps the whole text.
"""


def printable(text: str) -> str:
    """Return a text as one line; characters that are not printable are escaped."""
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def printable_lines(text: str) -> str:
    """Escape a text but keep line ends and tabs. A carriage return becomes a line end."""
    return "".join(
        character if character in "\n\t" else printable(character) for character in text.replace("\r", "\n")
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
