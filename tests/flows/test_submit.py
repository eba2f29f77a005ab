"""Scripts and manifests of `ontogeny submit`: workers in whole nodes, and the analysis itself."""

import json
import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli import app
from flows.submit import Allocation, allocate
from pipeline.config import Analysis, Workers, load_analysis
from pipeline.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("workers", "nodes", "allocation"),
    [
        ({"count": 2}, 1, Allocation(1, 2, 2, 0)),
        ({"count": 8, "gpus": 1, "cpus": 4}, 2, Allocation(2, 4, 16, 4)),
        ({"count": 8, "gpus": 2}, 4, Allocation(4, 2, 2, 4)),
        ({"count": 8, "gpus": 0.25}, 1, Allocation(1, 8, 8, 2)),
        ({"count": 9, "gpus": 0.25}, 1, Allocation(1, 9, 9, 3)),
        ({"count": 5, "gpus": 0.1, "cpus": 0.5}, 2, Allocation(2, 3, 2, 1)),
        ({"count": 10, "gpus": 0.1}, 1, Allocation(1, 10, 10, 1)),
        # Two with 0.4 fit on one GPU; the third would span two, and gets its own.
        ({"count": 3, "gpus": 0.4}, 1, Allocation(1, 3, 3, 2)),
        ({"count": 3, "gpus": 0.6}, 1, Allocation(1, 3, 3, 3)),
    ],
)
def test_workers_are_spread_over_whole_nodes(
    workers: dict[str, Any], nodes: int, allocation: Allocation
) -> None:
    assert allocate(Workers.model_validate(workers), nodes) == allocation


@pytest.mark.parametrize(
    ("workers", "nodes", "says"),
    [
        ({"count": 2}, 3, "3 nodes for 2 workers"),
        ({"gpus": 1.5}, 1, "1.5: more than one GPU must be a whole number"),
        ({"device": "cuda"}, 1, "gpus: 0.25 for four workers on each GPU"),
    ],
)
def test_what_no_cluster_can_give_is_refused(
    workers: dict[str, Any], nodes: int, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        allocate(Workers.model_validate(workers), nodes)


def submitted(*arguments: str | Path, **options: Any) -> str:
    result = CliRunner().invoke(app, ["submit", *map(str, arguments)], **options)
    assert result.exit_code == 0, result.output
    return result.stdout


def contained(script: str) -> dict[str, Any]:
    """Return the analysis that a script contains."""
    return yaml.safe_load(script.partition("<<'ANALYSIS'\n")[2].partition("\nANALYSIS\n")[0])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "it's an analysis.yaml"
    content = {
        "checkpoints": "run $(touch broken)",
        "store": "runs/store.zarr",
        "inputs": {"table": {"kind": "table"}},
        "measures": ["modular_addition"],
        "workers": {"count": 8, "cpus": 2, "gpus": 0.5},
    }
    path.write_text(json.dumps(content))
    return path


def test_a_batch_script_says_what_it_asks_for(config: Path) -> None:
    script = submitted("slurm", config, "--nodes", "2", "--option=--partition=gpu", "--grace", "60")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    asked = [line.split()[1] for line in script.splitlines() if line.startswith("#SBATCH")]
    assert {
        "--nodes=2", "--cpus-per-task=9", "--gpus-per-node=2", "--requeue", "--partition=gpu",
        "--signal=B:USR1@60", "--job-name=ontogeny-store",
    } <= set(asked)  # fmt: skip
    assert Analysis.model_validate(contained(script)) == load_analysis(config)


def test_a_job_is_told_of_the_server_that_it_reports_to(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect:4200/api?of='us'&more")
    script = submitted("ray", config, "--address", "http://head:8265")
    words = shlex.split(script.partition("\nANALYSIS\n")[2])
    assert "--address=http://head:8265" in words
    (told,) = (word.partition("=")[2] for word in words if word.startswith("--runtime-env-json="))
    variables = {"PREFECT_API_URL": "http://prefect:4200/api?of='us'&more"}
    assert json.loads(told) == {"env_vars": variables}
    assert words[words.index("--") :] == ["--", "ontogeny", "analyze", "ontogeny-analysis.yaml"]


def test_a_runtime_environment_is_merged_with_ours(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect:4200/api")
    (tmp_path / "my code").mkdir()
    file = tmp_path / "env.yaml"
    file.write_text("pip: [numpy]\nworking_dir: my code\nenv_vars: {TOKENIZERS_PARALLELISM: '0'}\n")
    script = submitted("ray", config, "--runtime-env", file)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    words = shlex.split(script.partition("\nANALYSIS\n")[2])
    (told,) = (word.partition("=")[2] for word in words if word.startswith("--runtime-env-json="))
    variables = {"PREFECT_API_URL": "http://prefect:4200/api", "TOKENIZERS_PARALLELISM": "0"}
    assert json.loads(told) == {"pip": ["numpy"], "env_vars": variables}
    assert f"cp -R -- '{tmp_path}/my code'/." in script


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pips: [numpy]", "pips: is no field of Ray's; did you mean 'pip'?"),
        ("env_vars: {THREADS: 2}", "env_vars.THREADS: expected text"),
        ("env_vars: {AWS_SECRET_ACCESS_KEY: abc}", "looks like a secret"),
        ("env_vars: {HF_TOKEN: abc}", "looks like a secret"),
        ("env_vars: {URL: 'https://me:secret@host'}", "env_vars.URL: "),
        ("env_vars: [A]", "env_vars: expected names with values"),
        ("working_dir: nowhere", "working_dir: nowhere: expected a folder on this machine"),
    ],
)
def test_a_wrong_runtime_environment_is_refused(
    text: str, says: str, config: Path, tmp_path: Path
) -> None:
    (tmp_path / "env.yaml").write_text(text)
    arguments = ["submit", "ray", str(config), "--runtime-env", str(tmp_path / "env.yaml")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and says in result.stderr and "abc" not in result.output


def test_a_cluster_grows_to_the_most_workers(config: Path) -> None:
    content = json.loads(config.read_text())
    places = {"checkpoints": "s3://b/run", "store": "s3://b/s.zarr"}
    content |= {**places, "workers": {"count": 2, "max_count": 7}}
    config.write_text(json.dumps(content))
    script = submitted("kuberay", config, "--image", "i:1", "--standing")
    cluster = next(one for one in yaml.safe_load_all(script) if one["kind"] == "RayCluster")
    (group,) = cluster["spec"]["workerGroupSpecs"]
    # One node has two workers; seven need four.
    assert (group["minReplicas"], group["maxReplicas"]) == (1, 4)
    assert cluster["spec"]["enableInTreeAutoscaling"] is True


@pytest.mark.parametrize("most", [None, 6])
def test_a_cluster_has_at_least_its_nodes(config: Path, most: int | None) -> None:
    content = json.loads(config.read_text())
    places = {"checkpoints": "s3://b/run", "store": "s3://b/s.zarr"}
    # Four nodes with room for two workers each: six workers would fit on three.
    config.write_text(json.dumps({**content, **places, "workers": {"count": 5, "max_count": most}}))
    script = submitted("kuberay", config, "--image", "i:1", "--standing", "--nodes", "4")
    cluster = next(one for one in yaml.safe_load_all(script) if one["kind"] == "RayCluster")
    (group,) = cluster["spec"]["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (4, 4, 4)
    assert "enableInTreeAutoscaling" not in cluster["spec"]


def test_a_preset_is_carried_with_its_paths_from_here(tmp_path: Path) -> None:
    script = submitted("ray", "induction")
    assert contained(script)["store"] == str(Path.cwd() / "runs" / "induction.zarr")


def test_sending_without_the_cluster_s_command_says_so(config: Path, tmp_path: Path) -> None:
    arguments = ["submit", "slurm", str(config), "--send"]
    result = CliRunner().invoke(app, arguments, env={"PATH": str(tmp_path)})
    assert result.exit_code == 2
    assert result.stderr.startswith("sbatch: not found on this machine")


def test_the_package_holds_what_it_fills_in(tmp_path: Path) -> None:
    """Build a wheel, unpack it as pip does, and run the command without the repository."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    source = tmp_path / "source"
    source.mkdir()
    parts = ("pyproject.toml", "README.md", "LICENSE", "ontogeny.py", "pipeline", "flows")
    for name in parts:
        (source / name).symlink_to(ROOT / name)
    subprocess.run([*build, "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        files = packed.namelist()
        packed.extractall(tmp_path / "installed")
    packages = {name.partition("/")[0] for name in files if ".dist-info/" not in name}
    assert packages == {"flows", "ontogeny.py", "pipeline"}
    printed = subprocess.run(
        [sys.executable, "-m", "ontogeny", "submit", "slurm", "induction"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"machines={tmp_path}/installed/flows/machines" in printed
    here = {str(p.relative_to(ROOT)) for p in (ROOT / "flows").rglob("*") if p.is_file()}
    assert {name for name in here if "__pycache__" not in name} <= set(files)
