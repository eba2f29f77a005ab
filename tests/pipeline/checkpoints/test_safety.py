"""Neither a checkpoint nor its storage can make us run code or disclose a secret."""

import json
import os
from pathlib import Path

import pytest

from pipeline import Analysis, analyze, audit, list_checkpoints
from pipeline.checkpoints.fetch import Copies
from pipeline.errors import InputError
from tests.pipeline.checkpoints.servers import Faults

_CODE = """
import os
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.organism_config import OrganismConfig

os.environ["STRANGERS_CODE_RAN"] = "yes"


class StrangerConfig(OrganismConfig):
    model_type = "stranger"


class StrangerForCausalLM(OrganismForCausalLM):
    config_class = StrangerConfig
"""


@pytest.fixture
def strangers(make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a run whose model is built by a Python file beside its weights."""
    monkeypatch.delenv("STRANGERS_CODE_RAN", raising=False)
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    run = make_run((0, 1))
    for folder in run.iterdir():
        (folder / "stranger.py").write_text(_CODE)
        config = json.loads((folder / "config.json").read_text()) | {
            "model_type": "stranger",
            "architectures": ["StrangerForCausalLM"],
            "auto_map": {
                "AutoConfig": "stranger.StrangerConfig",
                "AutoModelForCausalLM": "stranger.StrangerForCausalLM",
            },
        }
        (folder / "config.json").write_text(json.dumps(config))
    return run


@pytest.mark.parametrize("place", ["folder", "hub"])
def test_code_of_a_checkpoint_runs_only_where_the_config_allows_it(strangers, hub, tmp_path, place):
    hub.add_run("owner/stranger", strangers)
    content = {
        "checkpoints": str(strangers) if place == "folder" else "hf://owner/stranger",
        "store": str(tmp_path / "a.zarr"), "measures": ["weight_norm"],
    }  # fmt: skip
    audit(content["checkpoints"], deep=True)
    with pytest.raises(InputError, match="set `trust_remote_code: true`"):
        analyze(Analysis.model_validate(content))
    assert "STRANGERS_CODE_RAN" not in os.environ
    trusting = Analysis.model_validate(content | {"trust_remote_code": True})
    assert analyze(trusting).computed == [0, 1]
    assert os.environ.pop("STRANGERS_CODE_RAN") == "yes"


def test_a_signed_address_is_not_told_when_its_place_stays_down(
    hub, write_large, tmp_path, fast_retries
):
    write_large(tmp_path / "run/step-0", 0)
    hub.add_run("owner/name", tmp_path / "run")
    (found,) = list_checkpoints("hf://owner/name")
    hub.cdn.faults = Faults(share=1.0)
    with pytest.raises(OSError, match="cannot be reached") as failed, Copies().of(found) as copy:
        _ = copy.parts
    assert "signed" not in str(failed.value)


@pytest.mark.parametrize("uri", ["s3://KEY:s3cret@bucket/a", "hf://user:s3cret@owner/name"])
def test_an_address_with_credentials_is_refused_without_repeating_them(uri):
    with pytest.raises(InputError, match="holds credentials") as refused:
        list_checkpoints(uri)
    assert "s3cret" not in str(refused.value)


def test_no_secret_is_in_the_store_the_report_or_the_cache(s3, make_run, tmp_path):
    from s3fs import S3FileSystem

    from pipeline.report import write_report

    S3FileSystem(use_listings_cache=False).put(str(make_run((0, 1))), "runs/a", recursive=True)
    store = tmp_path / "a.zarr"
    content = {"checkpoints": "s3://runs/a", "store": str(store), "measures": ["weight_norm"]}
    assert analyze(Analysis.model_validate(content)).computed == [0, 1]
    write_report([str(store)], tmp_path / "report")
    for folder in (store, tmp_path / "report", tmp_path / "cache"):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files
        for secret in (os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_ACCESS_KEY_ID"]):
            assert not [path for path in files if secret.encode() in path.read_bytes()]
