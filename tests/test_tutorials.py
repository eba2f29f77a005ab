"""The commands of the pages exist; those of quickstart and tutorials print what the pages say."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^(?: {4}|\$ )?(ontogeny [^\n]+)$", re.MULTILINE)
STEP = re.compile(r"^```(sh|text|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:e[+-]?\d+)?")


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that a line names, and its other words."""
    found: Any = typer.main.get_command(app)
    at = 1
    while hasattr(found, "commands"):
        found = found.commands[words[at]]
        at += 1
    return found, words[at:]


def unknown_options(line: str) -> list[str]:
    command, words = command_of(shlex.split(line, comments=True))
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    given = [word.strip("[]").partition("=")[0] for word in words]
    return [word for word in given if word.startswith("--") and word not in {*known, "--help"}]


def lines_with_commands() -> list[tuple[str, str]]:
    blocks = re.compile(r"^```(?:sh|console|)\n(.*?)^```$|^( {4}ontogeny .*)$", re.M | re.S)
    return [
        (page.name, line)
        for page in PAGES
        for block in blocks.finditer(page.read_text("utf-8"))
        for line in COMMAND.findall((block[1] or block[2]).replace("\\\n", ""))
    ]


@pytest.mark.parametrize(("page", "line"), lines_with_commands())
def test_a_command_of_a_page_exists(page: str, line: str) -> None:
    assert unknown_options(line) == []


def test_unknown_commands_and_options_are_found() -> None:
    assert len(lines_with_commands()) > 50
    assert unknown_options("ontogeny query a.zarr g/v --stp 3 # --no") == ["--stp"]
    with pytest.raises(KeyError):
        command_of(["ontogeny", "store", "polish"])


def printed(line: str) -> str:
    result = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
    assert result.exit_code == 0, f"{line}: {result.output}"
    return result.stdout


def steps_of(page: str) -> Iterator[tuple[str, str]]:
    """Yield the language and text of each block of shell, output or YAML, in order."""
    for found in STEP.finditer((ROOT / "docs" / page).read_text("utf-8")):
        yield found[1], found[2]


def assert_printed(quoted: str, text: str) -> None:
    """Check that each quoted line was printed, with numbers that differ by at most 5%.

    Training on another kind of processor gives other last digits.
    """
    lines = text.splitlines()
    for line in quoted.splitlines():
        assert any(nearly_equal(line, other) for other in lines), f"{line!r} is not among {text}"


def nearly_equal(line: str, other: str) -> bool:
    if words(line) != words(other):
        return False
    return numbers(line) == pytest.approx(numbers(other), rel=0.05)


def words(line: str) -> str:
    return NUMBER.sub("#", " ".join(line.split()))


def numbers(line: str) -> list[float]:
    return [float(one.replace(",", "")) for one in NUMBER.findall(line)]


@pytest.mark.slow
def test_the_grokking_tutorial_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run all commands of the page, but those for figures, some 30 s."""
    monkeypatch.chdir(tmp_path)
    text, quoted = "", 0
    for language, block in steps_of("tutorial-grokking.md"):
        if language == "sh" and " report " not in block:  # which other tests run
            text = "".join(map(printed, block.splitlines()))
        elif language == "text":
            assert_printed(block, text)
            quoted += 1
    assert quoted == 3


@pytest.mark.slow
def test_the_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run its commands on untrained models instead of the run that it trains."""
    from pipeline.models.organism import OrganismForCausalLM
    from pipeline.models.organism_config import OrganismConfig

    monkeypatch.chdir(tmp_path)
    for step in (0, 800, 1600):
        model = OrganismForCausalLM(OrganismConfig(hidden_size=16, num_attention_heads=2))
        model.save_pretrained(f"runs/induction/step-{step}")
    ran = 0
    for language, block in steps_of("quickstart.md"):
        if language == "yaml":
            Path("first.yaml").write_text(block)
        for line in block.splitlines() if language == "sh" else []:
            if line.startswith("ontogeny ") and " train " not in line:
                printed(line)
                ran += 1
    assert ran == 7
    assert (tmp_path / "first.zarr").is_dir()


def test_numbers_that_differ_are_found() -> None:
    assert_printed("  at step 1,200 (0.50)", "other\n at step 1,201 (0.51)\n")
    for wrong in ("at step 1,400 (0.50)", "by step 1,200 (0.50)"):
        with pytest.raises(AssertionError):
            assert_printed("at step 1,200 (0.50)", wrong)
    assert numbers("760,3173760,0.45,-2e-3 of 1,251") == [760, 3173760, 0.45, -0.002, 1251]
