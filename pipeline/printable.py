"""Text from files, made safe for a terminal, a log or a page.

The name of a file, a tensor or a token may hold anything: escape sequences that change a terminal,
line breaks that forge a line, marks that reverse the direction of the text after them.
"""

from pipeline.redaction import redacted


def printable(text: str, kept: str = "") -> str:
    r"""Return the text with each character that is not printable as an escape, such as `\x1b`.

    Secrets of addresses are left out. kept: characters to leave as they are, such as line breaks.
    """
    text = redacted(text)
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in kept else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
