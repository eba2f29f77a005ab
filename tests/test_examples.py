"""The examples of the README, the documentation and the docstrings run as they stand.

A block that cannot run here has the comment `<!-- not run: reason -->` on the line before it; it is
compiled.
"""

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from pipeline.config import Analysis
from pipeline.training import Training
from tests.pipeline.query.questions import fill, templates

ROOT = Path(__file__).resolve().parents[1]
# A page whose blocks need files of their own is run by the test that is named here.
RUN_BY = {"writing-a-measure.md": "tests/pipeline/measures/test_writing_a_measure.py"}
PAGES = sorted(
    page
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"))
    if page.name not in RUN_BY
)
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>[^>]+) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
ANALYSIS = """
checkpoints: run
store: made.zarr
inputs: {repeated: {kind: repeated, block_length: 8, sequences: 2}}
measures: [head_scores, weight_norm]
"""


@dataclass(frozen=True)
class Block:
    """A block of code in a page; `why` it is not run, "" where it is."""

    code: str
    why: str


def blocks(page: str, language: str) -> list[Block]:
    return [
        Block(found["code"], (found["why"] or "").strip())
        for found in BLOCK.finditer(page)
        if found["language"] == language
    ]


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page.read_text(), language)]


def run_blocks(page: str) -> list[str]:
    """Run a page's Python in one namespace, in order; return why each other block was not run."""
    names: dict[str, object] = {}
    skipped = []
    for block in blocks(page, "python"):
        compiled = compile(block.code, "<page>", "exec")
        if block.why:
            skipped.append(block.why)
        else:
            exec(compiled, names)
    return skipped


@pytest.fixture(scope="module", autouse=True)
def prepared_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Go to a folder with the stores, checkpoints and analysis that the examples speak of."""
    from pipeline.models.organism import OrganismForCausalLM
    from pipeline.models.organism_config import OrganismConfig

    folder = tmp_path_factory.mktemp("examples")
    made = templates(layers=3, heads=8, sequences=4, positions=101)
    for name, spacing in {"run": 2000, "my-model": 2000, "other": 4000}.items():
        fill(f"{folder}/{name}.zarr", made, range(0, 10000, spacing))
    for step in (0, 1, 2, 4):
        torch.manual_seed(step)
        model = OrganismForCausalLM(
            OrganismConfig(vocab_size=40, hidden_size=16, num_attention_heads=2)
        )
        model.save_pretrained(folder / "run" / f"step-{step}")
    (folder / "analysis.yaml").write_text(ANALYSIS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.mark.parametrize("page", pages_with("python"), ids=lambda page: page.name)
def test_python_of_a_page_runs(page: Path) -> None:
    for why in run_blocks(page.read_text()):
        assert why, f"{page.name}: a block that is not run must say why"


def documented_modules() -> list[str]:
    """Return the modules whose source has an example in the form of `doctest`."""
    named = []
    for package in ("pipeline", "flows"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if ">>> " in path.read_text():
                parts = path.relative_to(ROOT).with_suffix("").parts
                named.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return named


@pytest.mark.parametrize("name", documented_modules())
def test_examples_in_docstrings_run(name: str) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert result.attempted > 0 and result.failed == 0


def yaml_blocks() -> list[tuple[str, str]]:
    return [
        (page.name, block.code)
        for page in pages_with("yaml")
        for block in blocks(page.read_text(), "yaml")
        if not block.why
    ]


@pytest.mark.parametrize(("page", "text"), yaml_blocks())
def test_yaml_of_a_page_is_valid(page: str, text: str) -> None:
    """A part of an analysis, or of a training run, is valid within a small whole one."""
    if page == "training.md":
        whole, *_ = (yaml.safe_load(other) for name, other in yaml_blocks() if name == page)
        Training.model_validate(whole | yaml.safe_load(text))
        return
    whole = {"checkpoints": "run", "store": "run.zarr", "measures": ["weight_norm"]}
    Analysis.model_validate(whole | yaml.safe_load(text))


def test_pages_that_are_run_elsewhere_have_a_test() -> None:
    for page, test in RUN_BY.items():
        assert not (ROOT / "docs" / page).exists() or page in (ROOT / test).read_text()


def test_a_failing_example_fails() -> None:
    good, bad = "```python\nn = 1\n```\n", "```python\nassert n == 2\n```\n"
    assert run_blocks(good) == []
    with pytest.raises(AssertionError):
        run_blocks(good + bad)
    assert run_blocks(good + "<!-- not run: needs a GPU -->\n" + bad) == ["needs a GPU"]
    with pytest.raises(SyntaxError):
        run_blocks("<!-- not run: needs a GPU -->\n```python\nn =\n```\n")


def test_examples_in_python_files_parse() -> None:
    for path in sorted((ROOT / "examples").glob("*.py")):
        ast.parse(path.read_text())
