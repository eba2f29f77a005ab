"""Docstrings begin with a verb or a noun, not with a clause such as "What is stored …"."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CLAUSE = re.compile(r"(What|Whatever|Whether|Which|Where|How|That|When|Who|Whose|Why)\b")
FILES = sorted(
    str(path.relative_to(ROOT))
    for package in ("pipeline", "flows", "tests")
    for path in (ROOT / package).rglob("*.py")
)

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def clauses_in(source: str) -> list[str]:
    """Return the first lines of docstrings that begin with a question word, with their owners."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Documented):
            docstring = ast.get_docstring(node) or ""
            if CLAUSE.match(docstring):
                owner = getattr(node, "name", "module")
                found.append(f"{owner}: {docstring.splitlines()[0]}")
    return found


@pytest.mark.parametrize("file", FILES)
def test_no_docstring_begins_with_a_clause(file: str) -> None:
    assert clauses_in((ROOT / file).read_text(encoding="utf-8")) == []


def test_a_clause_is_found_in_every_kind_of_docstring() -> None:
    source = (
        '"""What it does."""\n'
        'class A:\n    """How it does it."""\n'
        '    async def f(self):\n        """Whether it is."""\n'
        'def g():\n    """Return what it is."""\n'
    )
    assert sorted(clauses_in(source)) == [
        "A: How it does it.",
        "f: Whether it is.",
        "module: What it does.",
    ]
