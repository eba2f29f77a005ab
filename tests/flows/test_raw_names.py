"""Names of folders, tensors, inputs and tokens reach no terminal, page or artifact raw."""

import io
import json
import os
import pty
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from flows import artifacts
from flows.cli import app
from flows.cli.output import print_table
from flows.console import show_progress
from pipeline.analysis.summary import Summary
from pipeline.query.tables import write

MakeRun = Callable[..., Path]

HOSTILE = "\x1b]0;x\x07\x9b31m\u202e<img src=x onerror=a()>[red]a[/red]|`%{y}`[x](y)"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def test_hostile_names_are_shown_escaped_by_every_command(
    make_run: MakeRun, tmp_path: Path
) -> None:
    """Run the commands on a run with hostile names of folders, tensors and an input's file."""
    run = make_run((0, 1, 2), name=HOSTILE.replace("/", "-"))
    for name in ("checkpoint-\x1b[31mfinal", "step-3\u202e", "[link=x]best"):
        (run / name).mkdir()
        (run / name / "model.safetensors").write_bytes(b"")
    weights = load_file(run / "step-1" / "model.safetensors")
    more = {**weights, HOSTILE: weights["lm_head.weight"] + 0}
    save_file(more, run / "step-1" / "model.safetensors", metadata={"format": "pt"})
    store = tmp_path / f"{HOSTILE.replace('/', '-')}.zarr"
    content = {
        "checkpoints": str(run), "store": str(store), "audit": "off", "measures": ["weight_norm"],
    }  # fmt: skip
    file = tmp_path / "a\x1b[31m.yaml"
    file.write_text(json.dumps(content))
    outputs = {}
    for words in (
        ["checkpoints", run], ["checkpoints", run, "--json"], ["audit", run],
        ["audit", run, "--json"], ["analyze", file, "--dry-run"], ["analyze", file, "--serial"],
        ["analyze", file, "--serial", "--json"],
        ["query", store, "weight_norm/by_parameter", "--limit", 3],
        ["query", store, "weight_norm/\x1b[31mx"], ["query", store, "weight_norm/x", "--\x1b[31m"],
        ["store", "verify", store], ["report", store], ["sweep", store],
        ["measures", store], ["submit", "slurm", file], ["checkpoints", "\x1b[31m"],
        ["measures", "\x1b[31m"], ["doctor", "\x1b[31m.yaml"],
    ):  # fmt: skip
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert not RAW.search(result.output.replace("\n", "")), (words, ascii(result.output))
        assert result.exit_code in (0, 1, 2), (words, result.exception)
        outputs.setdefault((words[0], *words[2:3]), result.output)
    assert "\\x1b[31mfinal" in outputs["checkpoints",]
    assert "step-1: " in outputs["analyze", "--serial"] and "\\x1b]0;x" in outputs["audit",]
    pages = list(tmp_path.glob("*-report/**/*.html"))
    names = {page.name for page in pages}
    assert {"index.html", "overview.html", "measures.html", "method.html"} <= names
    for page in pages:
        html = page.read_text()
        assert not RAW.search(html.replace("\n", "")) and "<img src=x" not in html, page
    assert any("&lt;img src=x" in page.read_text() for page in pages)


def read_terminal(descriptor: int) -> str:
    """Return what a terminal still holds; "" at the end, once nothing writes to it."""
    try:
        return os.read(descriptor, 1 << 16).decode(errors="replace")
    except OSError:
        return ""


def test_a_table_and_the_progress_show_markup_as_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Print a table, lines of progress, and a bar on a terminal."""
    print_table(["[red]a", "b"], [[HOSTILE, "[link=http://x]y[/link]"]])
    with show_progress(HOSTILE) as progress:
        progress(1, 1, HOSTILE)
    shown = "".join(capsys.readouterr())
    assert not RAW.search(shown.replace("\n", "")) and shown.count("[red]a[/red]") == 3
    assert "[link=http://x]y[/link]" in shown
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "500")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with show_progress(HOSTILE) as progress:
            progress(1, 2, HOSTILE)
    seen = "".join(iter(lambda: read_terminal(ours), ""))
    os.close(ours)
    assert "\\x1b]0;x" in seen and "\x1b]0;" not in seen and "[red]a[/red]" in seen


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("format", ["table", "csv", "json"])
def test_a_query_writes_no_raw_name_to_a_terminal(format: str) -> None:
    import pandas as pd

    stream = Terminal()
    write(iter([pd.DataFrame({"token": [HOSTILE], f"x{HOSTILE}": [1.0]})]), format, stream)
    # rich colours the borders of a table on a terminal.
    text = re.sub("\x1b\\[[0-9;]*m", "", stream.getvalue())
    assert "onerror" in text and not RAW.search(text.replace("\n", ""))


def test_artifacts_show_names_as_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make the artifacts of a run with hostile names; a parser of Markdown finds only text."""
    made: dict[str, Any] = {}

    def keep(request: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        made[options["key"].partition("-")[0]] = (*arguments, options)

    monkeypatch.setattr(artifacts, "_if_reachable", keep)
    monkeypatch.setattr(artifacts, "report_link", lambda page: page.resolve().as_uri())
    monkeypatch.setattr(artifacts, "findings", lambda _: [HOSTILE])
    monkeypatch.setattr(artifacts, "overview", lambda _: [])
    summary = Summary(store=f"/x/{HOSTILE}", undefined={HOSTILE: HOSTILE}, failed={1: HOSTILE})
    page = tmp_path / HOSTILE.replace("/", "-") / "index.html"
    artifacts.show_findings(summary, page, [HOSTILE])
    artifacts.show_table("checkpoints", [{"step": 1, "failure": HOSTILE}], HOSTILE)
    text, about = made["findings"]
    assert not RAW.search(str(made).replace("\\n", ""))
    for one in (text, about["description"], made["checkpoints"][1]["description"]):
        inline = [t for token in MarkdownIt().parse(one) for t in token.children or ()]
        links = [t.attrs["href"] for t in inline if t.type == "link_open"]
        assert set(links) <= {page.resolve().as_uri()}
        assert not {"image", "html_inline", "code_inline"} & {t.type for t in inline}
    ((row,), _) = made["checkpoints"]
    assert row["step"] == 1 and "\\x1b]0;x" in row["failure"]
    assert made.keys() == {"checkpoints", "findings", "report"}
    assert all(re.fullmatch(r"[a-z0-9-]+", options["key"]) for *_, options in made.values())


def test_nothing_prints_past_the_functions_that_escape() -> None:
    """Find calls of `print` and `typer.echo` in the command line and the flows."""
    allowed = {"output.py", "console.py", "observer.py", "cluster.py", "watch_log.py"}
    folder = Path(artifacts.__file__).parent
    found = [
        f"{path.relative_to(folder)}: {line.strip()}"
        for path in folder.rglob("*.py")
        if path.name not in allowed
        for line in path.read_text().splitlines()
        if re.search(r"(?<![\w.])(print|typer\.echo|click\.echo)\(", line)
    ]
    assert found == []
