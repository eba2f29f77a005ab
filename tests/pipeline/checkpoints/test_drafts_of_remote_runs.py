"""`draft_analysis` of runs on the Hub and on S3: the file of the local run, and no weights read."""

from pathlib import Path

from s3fs import S3FileSystem

from pipeline.analysis.draft.seen import Machine
from pipeline.analysis.draft.write import draft_analysis
from pipeline.analysis.estimate import dry_run
from pipeline.config import load_analysis, parse_yaml

MACHINE = Machine(cores=2, memory=16 * 2**30, gpus=0)
SHAPE = {"vocab_size": 4000, "hidden_size": 64}  # weights are larger than all else together


def values(uri: str, file: Path) -> dict:
    """Return the file that is written for a run, without its addresses."""
    draft_analysis(uri, file, machine=MACHINE)
    assert dry_run(load_analysis(file)).faults == ()
    said = parse_yaml(file.read_text(), str(file))
    assert said.pop("checkpoints").endswith(uri.rpartition("/")[2])
    assert said.pop("store") == f"{file.stem}.zarr"
    return said


def size_of_weights(run: Path) -> int:
    """Return the bytes of the weights of one checkpoint."""
    return (run / "step-0" / "model.safetensors").stat().st_size


def test_a_run_on_the_hub(hub, make_run, tmp_path: Path) -> None:
    run = make_run(**SHAPE)
    hub.add_run("owner/name", run)
    local = values(str(run), tmp_path / "local.yaml")
    hub.forget()
    assert values("hf://owner/name", tmp_path / "hub.yaml") == local
    assert 0 < hub.bytes_sent + hub.cdn.bytes_sent < size_of_weights(run)


def test_a_run_on_s3(s3, make_run, tmp_path: Path) -> None:
    run = make_run(**SHAPE)
    S3FileSystem(use_listings_cache=False).put(str(run), "runs/run", recursive=True)
    local = values(str(run), tmp_path / "local.yaml")
    s3.forget()
    assert values("s3://runs/run", tmp_path / "s3.yaml") == local
    assert 0 < s3.bytes_sent < size_of_weights(run)
