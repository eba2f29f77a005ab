"""Names of tests are short enough to be read in a list, and each is used once in its file."""

import ast
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parent
LONGEST = 70  # characters


def named_tests(path: Path) -> list[str]:
    """Return the tests of a file, those in classes with the name of their class."""
    found = []
    for node in ast.parse(path.read_text()).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        owner = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        found += [
            f"{owner}{one.name}"
            for one in inside
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
            and one.name.startswith("test_")
        ]
    return found


def test_names_are_short() -> None:
    too_long = [
        f"{path.relative_to(TESTS)}: {name}"
        for path in sorted(TESTS.rglob("test_*.py"))
        for name in named_tests(path)
        if len(name.rpartition(".")[2]) > LONGEST
    ]
    assert too_long == []


def test_no_test_hides_another_of_its_name() -> None:
    hidden = [
        f"{path.relative_to(TESTS)}: {name}"
        for path in sorted(TESTS.rglob("test_*.py"))
        for name, count in Counter(named_tests(path)).items()
        if count > 1
    ]
    assert hidden == []
