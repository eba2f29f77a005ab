"""Text from files, made safe for a terminal, a log or a page.

The name of a file, a tensor or a token may hold anything: escape sequences that change a terminal,
line breaks that forge a line, marks that reverse the direction of the text after them.
"""

import re
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import IO, Any

from pipeline.redaction import redacted

# An underscore within a word is not interpreted: `head_scores` stays readable.
_MARKDOWN = re.compile(r"[\\`*\[\]!|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^[-+#=]|(?<=^\d)[.)]")
# Markdown makes links of what looks like an address.
_LINKED = re.compile(r"(?i:https?|ftp|mailto|xmpp):|www\.|(?<=\S)@")
_ANY = 10_000  # characters: a file or a pipe has rows of any length


def printable(text: str, kept: str = "") -> str:
    r"""Return the text with each character that is not printable as an escape, such as `\x1b`.

    Secrets of addresses are left out. kept: characters to leave as they are, such as line breaks.
    """
    text = redacted(text)
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in kept else _escaped(one) for one in text)


def markdown(text: str) -> str:
    """Return the text for one line of Markdown, with nothing in it that Markdown would interpret.

    That is: HTML, links, images and emphasis, and cells of a table. Addresses become no links.
    """
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _MARKDOWN.sub(r"\\\g<0>", text)
    # A no-width character would be a raw one: an entity for the colon keeps an address from a link.
    return _LINKED.sub(lambda found: f"{found[0][:-1]}&#{ord(found[0][-1])};", text)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], stream: IO[Any] | StringIO | None = None
) -> None:
    """Print a table: no cell is cut off. A file or a pipe gets one line for each row.

    stream: where to; by default stdout.
    """
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    # Text, since rich reads markup such as "[red]" in a string.
    table = Table(*(Column(Text(printable(name)), overflow="fold") for name in columns), box=None)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(file=stream, soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.measure(table, options=console.options.update(max_width=_ANY))
                            .maximum, 1)  # fmt: skip
    console.print(table)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
