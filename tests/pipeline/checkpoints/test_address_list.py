"""A run whose checkpoints are listed in a CSV or JSON file, on several storages."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline import Analysis, analyze, open_run
from pipeline.auditing import audit
from pipeline.checkpoints import RunLayout, list_checkpoints, list_run
from pipeline.checkpoints.places import current_folder
from pipeline.errors import InputError
from tests.pipeline.checkpoints.test_s3 import upload


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_list_gives_steps_addresses_and_tokens(tmp_path, write_checkpoint, suffix):
    write_checkpoint(tmp_path / "run/any", 1)
    write_checkpoint(tmp_path / "other", 2)
    rows = [(10, "run/any", 2000), (5, str(tmp_path / "other"), None), (20, "nowhere", 7)]
    file = tmp_path / f"list{suffix}"
    if suffix == ".csv":
        lines = [f"{step},{place},{tokens or ''}" for step, place, tokens in rows]
        file.write_text("\ufeffStep, address ,tokens\n\n" + "\n".join(lines) + "\n")
    else:
        keys = ("step", "address", "tokens")
        file.write_text(json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
    listing = list_run(str(file))
    assert [(c.step, c.uri, c.tokens_seen) for c in listing.checkpoints] == [
        (5, str(tmp_path / "other"), None), (10, str(tmp_path / "run/any"), 2000),
    ]  # fmt: skip
    (told,) = listing.left_out
    assert (told.kind, told.name) == ("no weights", str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "has the columns nothing; expected a table with the columns step and address"),
        ("step;address\n1;a", "has the columns step;address; expected a table"),
        ("step,address\n", "lists no checkpoint"),
        ("step,address\n1,a,3", "line 2: has 3 cells, expected 2"),
        ("step,address\n-1,a", "line 2: has step '-1', expected a whole number"),
        ("step,address\n1e3,a", "line 2: has step '1e3'"),
        ("step,address\n,a", "line 2: has step 'None'"),
        ("step,address,tokens\n1,a,x", "line 2: has tokens 'x'"),
        ("step,address\n1,", "line 2: gives no address"),
        ("step,address\n1,a\n1,b", "lists step 1 twice"),
        ("step,address\n1,ftp://host/a", "ftp://"),
        ("step,address\n1,list.csv", "list.csv is another list"),
        ("step,address\n1,s3://AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMIK7MDENGbPxRfiCY@b/a", "s3://..."),
        ('step,address\n1,"a', "is no CSV file"),
        ("\0", "has the columns"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(tmp_path, content, reason):
    file = tmp_path / "list.csv"
    file.write_text(content)
    with pytest.raises(InputError) as caught:
        list_run(str(file))
    assert reason in str(caught.value) and "wJalr" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not valid JSON"),
        ("{}", "expected a list of objects"),
        ("[1]", "expected a list of objects"),
        ('[{"step": true, "address": "a"}]', "object 1: has step 'True'"),
        ('[{"step": 1.5, "address": "a"}]', "object 1: has step '1.5'"),
        ('[{"step": 1, "address": 5}]', "object 1: gives no address"),
        ('[{"step": 1, "address": "a\\u0000b"}]', "object 1: address"),
    ],
)
def test_a_json_list_that_cannot_be_used_is_refused(tmp_path, content, reason):
    file = tmp_path / "list.json"
    file.write_text(content)
    with pytest.raises(InputError) as caught:
        list_run(str(file))
    assert reason in str(caught.value)


def test_names_are_not_given_with_a_list(tmp_path):
    (tmp_path / "list.csv").write_text("step,address\n1,a\n")
    with pytest.raises(InputError, match="leave `names` out"):
        list_run(str(tmp_path / "list.csv"), layout=RunLayout(names="a-{step}"))


def test_checkpoints_of_three_storages_are_listed_and_audited(hub, s3, tmp_path, write_checkpoint):
    write_checkpoint(tmp_path / "local", 1)
    write_checkpoint(tmp_path / "bucket/any", 2)
    write_checkpoint(tmp_path / "hub/mine", 3)
    write_checkpoint(tmp_path / "copy", 1)
    hub.add_run("owner/name", tmp_path / "hub")
    place = upload(tmp_path / "bucket")
    file = tmp_path / "list.csv"
    file.write_text(f"step,address\n1,local\n2,{place}/any\n3,hf://owner/name@mine\n4,copy\n")
    found = list_checkpoints(str(file))
    assert [c.uri.partition("://")[0] for c in found[1:3]] == ["s3", "hf"]
    assert len(found[2].uri.rpartition("@")[2]) == 40
    faults = audit(str(file)).faults
    assert {one.kind for one in faults} == {"final-weights"}  # step 4 is a copy of step 1
    assert [one.step for one in faults] == [1]
    file.write_text("step,address\n3,hf://owner/name@absent\n")
    with pytest.raises(InputError, match="no such branch or tag"):
        list_checkpoints(str(file))


def test_files_of_any_name_are_listed_on_every_storage(hub, s3, tmp_path):
    for path in ("local/mine.pt", "bucket/mine.pt", "bucket/1000.pt", "hub/mine.pt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"a": torch.zeros(3)}, tmp_path / path)
    hub.add_run("owner/name", tmp_path / "hub")
    place = upload(tmp_path / "bucket")
    rows = ["local/mine.pt", f"{place}/mine.pt", f"{place}/1000.pt", "hf://owner/name/mine.pt",
            "local/none.pt", f"{place}/none.pt", "hf://owner/name/none.pt"]  # fmt: skip
    lines = [f"{step},{row}" for step, row in enumerate(rows)]
    (tmp_path / "list.csv").write_text("\n".join(["step,address", *lines]))
    listing = list_run(str(tmp_path / "list.csv"))
    assert [one.kind for one in listing.left_out] == ["no weights"] * 3
    assert all(one.name.endswith("/none.pt") for one in listing.left_out)
    files = [list(current_folder(one).files) for one in listing.checkpoints]
    assert files == [["mine.pt"], ["mine.pt"], ["1000.pt"], ["mine.pt"]]


def save_model(folder: Path, seed: int) -> float:
    """Save a tiny model; return the loss that transformers computes on the tests' tokens."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 101, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 64, "max_position_embeddings": 64}  # fmt: skip
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("llama", **sizes, initializer_range=0.25)
    )
    model.save_pretrained(folder)
    ids = torch.from_numpy(tokens())
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).loss)


def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 101, (8, 32)).astype(np.int64)


def test_what_lies_elsewhere_is_computed_as_transformers_does(s3, tmp_path):
    """A config at the run's root, a nested model, a link, and a bucket, in one list."""
    expected = [
        save_model(tmp_path / "run/step_1", 1),
        save_model(tmp_path / "nested/hf", 2),
        save_model(tmp_path / "bucket/any", 3),
    ]
    (tmp_path / "run/step_1/config.json").rename(tmp_path / "run/config.json")
    place = upload(tmp_path / "bucket")
    rows = [{"step": 1, "address": "run/step_1"}, {"step": 2, "address": "nested/hf"},
            {"step": 3, "address": f"{place}/any", "tokens": 900}]  # fmt: skip
    (tmp_path / "list.json").write_text(json.dumps(rows))
    np.save(tmp_path / "tokens.npy", tokens().ravel())
    text = {"kind": "array", "path": str(tmp_path / "tokens.npy"), "sequences": 8, "length": 32}
    store = str(tmp_path / "run.zarr")
    summary = analyze(
        Analysis.model_validate(
            {"checkpoints": str(tmp_path / "list.json"), "store": store, "inputs": {"text": text},
             "measures": {"token_loss": {"early_token": 5, "late_token": 30}}}
        )
    )  # fmt: skip
    assert not summary.failed
    assert any("without a config.json use" in note for note in summary.notes)
    found = open_run(store)["token_loss/mean"]
    assert np.allclose(found.values, expected, atol=1e-5)
    assert found["tokens_seen"].values[-1] == 900
