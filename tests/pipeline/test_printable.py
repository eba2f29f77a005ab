"""Names are shown as they are, with nothing that a terminal or a page would interpret."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.printable import markdown, printable

RAW = {
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",
    "a\x1b[31mb": "a\\x1b[31mb",
    "\x9b31m": "\\x9b31m",
    "a\nb\r": "a\\nb\\r",
    "\u202eabc\u2066": "\\u202eabc\\u2066",
    "\u200b\ufeff\u2028": "\\u200b\\ufeff\\u2028",
    "\udcff": "\\udcff",
    "\U000e0041": "\\U000e0041",
    "a\x7f": "a\\x7f",
    "naïve — 模型": "naïve — 模型",
    "https://u:p@h/x?sig=abc": "https://[hidden]@h/x?sig=[hidden]",
}


@pytest.mark.parametrize(("raw", "shown"), RAW.items(), ids=ascii)
def test_raw_characters_are_shown_as_escapes(raw: str, shown: str) -> None:
    assert printable(raw) == shown


@given(st.text())
def test_every_text_becomes_printable(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(text, kept="\n").replace("\n", "").isprintable()


PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
MARKED = st.text(st.sampled_from("abc <>&#*_`[]()!|~\\-+=.1\n\t:/@x{}$\"'"), max_size=40)


@given(st.one_of(MARKED, st.sampled_from([
    "<script>alert(1)</script>", "![x](http://evil/x.png)", "[x](javascript:alert(1))",
    "<http://evil>", "1. a", "2) b", "# h", "- x", "~~x~~", "a|b", "&lt;", "&#60;img&#62;", "***",
    "[x]: http://evil", "head_scores/induction", "__x__", "\\", "```", "    code",
])))  # fmt: skip
def test_markdown_shows_a_name_as_it_is(text: str) -> None:
    """Render an escaped name with a parser: alone, in a list and in a cell it stays plain text."""
    shown = printable(text).strip()
    for before, after in (("", ""), ("- ", ""), ("**x ", " x**")):
        tokens = PARSER.parse(f"{before}{markdown(text).strip()}{after}")
        inline = [one for token in tokens for one in token.children or ()]
        kinds = {one.type for one in inline} - {"strong_open", "strong_close"}
        assert kinds <= {"text", "text_special"}, (kinds, markdown(text))
        words = "".join(one.content for one in inline)
        assert words.split() == (f"x {shown} x" if before == "**x " else shown).split()
    table = f"| a | b |\n|---|---|\n| {markdown(text)} | end |"
    cells = [one.content for one in PARSER.parse(table) if one.type == "inline"]
    assert len(cells) == 4 and cells[3] == "end"


@pytest.mark.parametrize("text", ["https://evil/x", "www.evil.com", "me@evil.com", "HTTP://e"])
def test_an_address_becomes_no_link(text: str) -> None:
    linked = ("http:", "https:", "www.", "@")
    assert not any(one in markdown(text).lower() for one in linked)
