"""Values of an analysis and of options stay data in what `ontogeny submit` writes."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flows.submit import kuberay_manifest, ray_job_script, slurm_script
from pipeline.config import Analysis, parse_yaml, validated
from pipeline.errors import InputError

ROOT = Path(__file__).parents[2]
MACHINES = ROOT / "flows" / "machines"
CANARY = "canary"

HOSTILE = [
    f"\ntouch {CANARY}\n#", f"$(touch {CANARY})", f"`touch {CANARY}`", f"'; touch {CANARY}; '",
    f'"; touch {CANARY}; "', f"\r\ntouch {CANARY}\r\n", f"\u2028touch {CANARY}\u2028",
    f"\x85touch {CANARY}\x85", "\nANALYSIS\n", f"\nANALYSIS\ntouch {CANARY}\n", "ANALYSIS",
    "{{ 7 * 7 }}", "{% raw %}", "{# #}", "%j", "%x%%", "\0", "*x", "&x", "!x", "a: b", "- a", "on",
    "no", "~", "1e5", "0o17", "2026-01-31", "<<", "--wrap=touch", "\x1b]0;title\x07", "\u202e",
    "\\", "#SBATCH --x", " # a", "'", '"', "|", ">", "a" * 5000, "\t", "\U0001f600", "é", "\ufeff",
    "\ud800", "-", "", " ", "..", "a/../../b", "%0a", "\x7f",
]  # fmt: skip
texts = st.one_of(
    st.sampled_from(HOSTILE),
    st.lists(st.sampled_from([*HOSTILE, "runs", "/", "x"]), max_size=4).map("".join),
    st.text(max_size=30),
)


PLAIN: dict[str, str] = {
    "checkpoints": "s3://runs", "store": "s3://bucket/store.zarr", "path": "s3://texts/a",
    "input": "text", "tokenizer": "t", "measure": "weight_norm", "parameter": "p", "value": "v",
    "act_fn": "relu",
}  # fmt: skip


def content(of: dict[str, str]) -> dict[str, Any]:
    """Return an analysis with a text in each place that takes one."""
    text = {"kind": "text", "path": of["path"], "tokenizer": of["tokenizer"]}
    return {
        "checkpoints": of["checkpoints"],
        "store": of["store"],
        "inputs": {of["input"]: text},
        "measures": {of["measure"]: {of["parameter"]: [of["value"], {"x": of["value"]}]}},
        "model": {"act_fn": of["act_fn"], "ignore": [of["value"]]},
        "workers": {"count": 2},
    }


def analysis(values: list[str] | None = None) -> Analysis:
    """Return an analysis with those of the hostile values that are accepted in their place."""
    of = dict(PLAIN)
    for place, value in zip(PLAIN, values or [], strict=bool(values)):
        one = f"s3://{value}" if PLAIN[place].startswith("s3") else value
        if made(lambda of=of | {place: one}: validated(Analysis, content(of), "") and "") is None:
            continue
        of[place] = one
    return Analysis.model_validate(content(of))


def made(make: Callable[[], str]) -> str | None:
    """Return a text, or None where it is refused with lines that a terminal can show."""
    try:
        return make()
    except InputError as error:
        assert error.lines[0]
        return None


def carried(script: str) -> dict[str, Any]:
    """Return the analysis in a script."""
    lines = script.split("\n")
    begin = next(at for at, line in enumerate(lines) if line.startswith("cat >"))
    mark = lines[begin].partition("<<'")[2].removesuffix("'")
    inside = lines[begin + 1 : lines.index(mark, begin + 1)]
    return parse_yaml("\n".join(inside), "script")


def is_one_line_each(text: str) -> bool:
    return text.replace("\n", "").isprintable()


some = settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
nine = st.lists(texts, min_size=9, max_size=9)


@some
@given(values=nine, address=texts, option=texts, duration=texts)
@example(values=["a"] * 9, address="http://h:1", option="--partition=gpu", duration="24:00:00")
def test_scripts_hold_every_value_as_data(
    values: list[str], address: str, option: str, duration: str
) -> None:
    """Read scripts of hostile values with `bash -n`, and the analysis that they carry."""
    one = analysis(values)
    # An option that is refused must not keep the others from being tried.
    scripts = [
        made(lambda: slurm_script(one, options=[option])),
        made(lambda: slurm_script(one, duration=duration)),
        made(lambda: slurm_script(one)),
        made(lambda: ray_job_script(one, address)),
        made(lambda: ray_job_script(one, "http://127.0.0.1:8265")),
    ]
    for script in filter(None, scripts):
        assert is_one_line_each(script)
        assert Analysis.model_validate(carried(script)) == one
        subprocess.run(["bash", "-n"], input=script.encode(), check=True, capture_output=True)
    assert scripts[2] and scripts[4]
    directives = [line for line in scripts[2].splitlines() if line.startswith("#SBATCH")]
    assert len(directives) == 11 and all(line.split()[1].startswith("--") for line in directives)


@some
@given(values=nine, names=st.lists(texts, min_size=6, max_size=6))
@example(values=["a"] * 9, names=["image", "on", "1e5", "claim", "/p", "http://h"])
def test_manifests_hold_every_value_as_data(values: list[str], names: list[str]) -> None:
    """Read manifests of hostile values with a parser of YAML, value by value."""
    one = analysis(values)
    image, namespace, secret, claim, path, _ = names
    options: list[dict[str, Any]] = [
        {},
        {"image": image},
        {"namespace": namespace},
        {"secret": secret},
        {"volumes": [(claim, f"/{path}")]},
        {"volumes": [("claim", f"/{path}")]},
    ]
    for given_options in options:
        of: dict[str, Any] = {"image": "registry/ontogeny:1"} | given_options
        text = made(lambda of=of: kuberay_manifest(one, **of))
        standing = made(lambda of=of: kuberay_manifest(one, **of, standing=True))
        assert (text is None) == (standing is None)
        if text is None or standing is None:
            continue
        assert is_one_line_each(text) and is_one_line_each(standing)
        config_map, job = yaml.safe_load_all(text)
        cluster = yaml.safe_load(standing)["spec"]
        assert Analysis.model_validate(parse_yaml(config_map["data"]["analysis.yaml"], "")) == one
        assert job["spec"]["entrypoint"] == "ontogeny analyze /etc/ontogeny/analysis.yaml"
        assert job["metadata"].get("namespace") == of.get("namespace")
        for spec in (job["spec"]["rayClusterSpec"], cluster):
            pod = spec["workerGroupSpecs"][0]["template"]["spec"]
            (container,) = pod["containers"]
            assert set(container) <= {"name", "image", "resources", "envFrom", "volumeMounts"}
            assert container["image"] == of["image"]
            assert container["envFrom"][0]["secretRef"]["name"] == of.get("secret", "ontogeny-s3")
            mounts = [(m["name"], m["mountPath"]) for m in container.get("volumeMounts", [])]
            assert mounts == of.get("volumes", [])


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://h:4200/api?of='us'&$(touch${IFS}canary)`x`", True),
        ("http://h/\ntouch canary", False),
    ],
)
def test_the_server_s_address_is_carried_as_data(
    url: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    one = analysis()
    text = made(lambda: kuberay_manifest(one, "image"))
    script = made(lambda: ray_job_script(one, "http://h:8265"))
    assert (text is not None) is (script is not None) is kept
    if text and script:
        job = list(yaml.safe_load_all(text))[1]["spec"]
        assert yaml.safe_load(job["runtimeEnvYAML"]) == {"env_vars": {"PREFECT_API_URL": url}}
        words = shlex.split(script.rpartition("ray job submit")[2])
        (told,) = (word.partition("=")[2] for word in words if "runtime-env" in word)
        assert json.loads(told) == {"env_vars": {"PREFECT_API_URL": url}}


# Commands that the scripts call, which note how they are called and pass on what they must.
STUBS = {
    "ray": 'printf "%s\\0" "$@" >"$NOTES/ray-$1"\nfor word in "$@"; do case $word in\n'
    '--working-dir=*) cp "${word#*=}/ontogeny-analysis.yaml" "$NOTES/analysis.yaml";; esac; done',
    "ontogeny": 'cp "$2" "$NOTES/analysis.yaml"',
    "python": "until [[ -s $NOTES/ray-start ]]; do sleep 0.05; done",  # as await_nodes.py
    "scontrol": 'echo "NodeAddr=10.0.0.1 "',
    "squeue": "echo COMPLETED",
    "getent": 'echo "10.0.0.1 STREAM"',
    "srun": 'while [[ $1 == -* ]]; do shift; done\nSLURM_PROCID=0 exec "$@"',
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that runs a script with stubs in folders of hostile names."""
    tools = tmp_path / f"it's $(touch {CANARY}) `touch {CANARY}`"
    temporary = tmp_path / f"tmp \"$(touch {CANARY})\" 'x' `touch {CANARY}`"
    for folder in (tools, temporary, tmp_path / "work"):
        folder.mkdir()
    for name, body in STUBS.items():
        (tools / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tools / "python"))
    environment = {
        "PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(temporary),
        "NOTES": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_NNODES": "1",
        "SLURM_CPUS_PER_TASK": "2", "SLURMD_NODENAME": "n",
    }  # fmt: skip

    def run(script: str, **changes: str) -> Path:
        done = subprocess.run(
            ["bash"], input=script.encode(), cwd=tmp_path / "work", env={**environment, **changes},
            capture_output=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        assert not list(tmp_path.rglob(CANARY)), "a value was run as code"
        return tmp_path

    return run


HARMFUL = [text for text in HOSTILE if "\ud800" not in text]


def test_a_script_that_is_run_passes_every_value_on_unchanged(run: Callable[..., Path]) -> None:
    """Run the scripts with all hostile values at once: in the parameters, which take any text."""
    fields = {f"p{at}": text for at, text in enumerate(HARMFUL)}
    one = Analysis.model_validate(
        {
            "checkpoints": f"s3://r/$(touch {CANARY})`touch {CANARY}`'\"; touch {CANARY} #",
            "store": f"s3://b/$(touch {CANARY})`touch {CANARY}`'; touch {CANARY}; '",
            "measures": {"weight_norm": fields, "x": {text: text for text in HARMFUL}},
        }
    )
    for script in (ray_job_script(one, "http://h:1/$(touch${IFS}canary)`touch${IFS}canary`"),
                   slurm_script(one)):  # fmt: skip
        folder = run(script)
        arrived = parse_yaml((folder / "analysis.yaml").read_text(), "arrived")
        assert Analysis.model_validate(arrived) == one
        (folder / "analysis.yaml").unlink()
    words = (folder / "ray-start").read_text().split("\0")
    assert "start" in words and "--head" in words


@pytest.mark.parametrize("script", ["start_head.sh", "start_worker.sh"])
@pytest.mark.parametrize(
    "variables",
    [
        {"ONTOGENY_RAY_PORTS": f"PATH[$(touch {CANARY})]"},
        {"ONTOGENY_RAY_PORTS": "010"},
        {"ONTOGENY_RAY_PORTS": ""},
        {"ONTOGENY_RAY_WAIT": f"PATH[$(touch {CANARY})]"},
        {"RAY_AUTH_TOKEN_PATH": f"$(touch {CANARY})", "RAY_AUTH_TOKEN": ""},
        {"HEAD": f"$(touch {CANARY}):1"},
        {"HEAD": f"x[$(touch {CANARY})]:1"},
        {"HEAD": f"../../{CANARY}:1/../{CANARY}"},
        {"HEAD": f"-x:$(touch {CANARY})"},
    ],
    ids=str,
)
def test_machine_scripts_run_no_value(
    script: str, variables: dict[str, str], run: Callable[..., Path], tmp_path: Path
) -> None:
    """Call the scripts with hostile variables and arguments; a faulty one is one sentence."""
    head = variables.get("HEAD", "127.0.0.1:1")
    arguments = shlex.join([str(MACHINES / script), *([head] if "worker" in script else []), "-x"])
    tried = {"RAY_AUTH_TOKEN": "t", "ONTOGENY_RAY_WAIT": "0", **variables}
    run(f"{arguments} 2>errors || true", **tried)
    said = (tmp_path / "work" / "errors").read_text().splitlines()
    assert all(len(line) < 500 for line in said) and len(said) <= 2


def test_numbers_of_slurm_are_never_run(run: Callable[..., Path], tmp_path: Path) -> None:
    one = analysis()
    script = f"bash 2>errors <<'SCRIPT' || true\n{slurm_script(one)}\nSCRIPT\n"
    for name in ("SLURM_JOB_ID", "SLURM_NNODES", "SLURM_RESTART_COUNT"):
        run(script, **{name: f"PATH[$(touch {CANARY})]"})
        assert "expected numbers" in (tmp_path / "work" / "errors").read_text()
