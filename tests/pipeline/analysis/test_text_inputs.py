"""Inputs of text: BOS as the tokenizer does, documents packed or apart, data sets, losses."""

import gzip
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from pipeline import analyze, open_run
from pipeline.analysis.draft.seen import Machine
from pipeline.analysis.draft.write import draft_analysis
from pipeline.analysis.estimate import dry_run
from pipeline.analysis.inputs import make_input
from pipeline.config import (
    ArrayInput,
    InputSpec,
    NaturalMatchesInput,
    TextInput,
    load_analysis,
    validated,
)
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.models.facts import ModelFacts
from pipeline.query.token_texts import token_texts
from tests.pipeline.inputs.tokenizers_made import like_gpt2, like_llama

FACTS = ModelFacts(2, 2, 2, 4, 8, 280, 64, (), "test", None, ())
BOS, EOS = 278, 279  # of `like_llama`
PROSE = "The dog sat on the mat. Why? Nobody knows the cat.\n" * 8
DOCUMENTS = [f"{'the cat sat. ' * (n % 4 + 1)}{n}" for n in range(40)]


def built(spec: InputSpec, run: Path, model: ModelFacts = FACTS) -> Input:
    return make_input("text", spec, str(run), model)


def written(tmp_path: Path) -> str:
    (tmp_path / "prose.txt").write_text(PROSE)
    return str(tmp_path / "prose.txt")


def data_set(tmp_path: Path, documents: list[str] = DOCUMENTS) -> str:
    rows = (json.dumps({"text": one}) for one in documents)
    (tmp_path / "documents.jsonl").write_text("\n".join(rows))
    return str(tmp_path / "documents.jsonl")


@pytest.mark.parametrize("bos", [None, "auto", False])
def test_without_bos_an_input_is_what_it_was(tmp_path: Path, bos: object) -> None:
    tokenizer = like_gpt2(tmp_path / "run")
    given = {} if bos is None else {"bos": bos}
    spec = TextInput(path=written(tmp_path), sequences=3, length=16, **given)  # type: ignore[arg-type]
    made = built(spec, tmp_path / "run")
    ids = tokenizer(PROSE)["input_ids"]
    np.testing.assert_array_equal(made.tokens, np.reshape(ids[:48], (3, 16)))
    # The digest as it was computed before sequences could begin with BOS.
    stops = sorted(i for one, i in tokenizer.get_vocab().items() if one.strip("Ġ") == ".")
    state = hashlib.sha256(json.dumps(["text", {"full_stop_ids": stops}], sort_keys=True).encode())
    state.update(b"tokens <i8 (3, 16)" + made.tokens.tobytes())
    assert made.digest == state.hexdigest()


def test_auto_puts_bos_where_the_tokenizer_does(tmp_path: Path) -> None:
    tokenizer = like_llama(tmp_path / "run")
    spec = TextInput(path=written(tmp_path), sequences=3, length=16)
    made = built(spec, tmp_path / "run")
    assert (made.tokens[:, 0] == BOS).all() and BOS not in made.tokens[:, 1:]
    ids = tokenizer(PROSE, add_special_tokens=False)["input_ids"]
    np.testing.assert_array_equal(made.tokens[:, 1:].ravel(), ids[:45])
    assert made.tokens[0].tolist() == tokenizer(PROSE)["input_ids"][:16]
    assert made.attributes["begins_with"] == [BOS] and made.texts[BOS] == "<s>"
    assert made.said == ("3 sequences of 16 tokens, with BOS <s> (as the tokenizer does), one text")
    plain = built(spec.model_copy(update={"bos": False}), tmp_path / "run")
    np.testing.assert_array_equal(plain.tokens.ravel(), ids[:48])
    assert plain.digest != made.digest and "begins_with" not in plain.attributes


def test_bos_that_is_asked_for_and_named_nowhere_is_refused_by_the_input(tmp_path: Path) -> None:
    tokenizer = like_gpt2(tmp_path / "run")
    tokenizer.bos_token = None
    tokenizer.save_pretrained(tmp_path / "run")
    spec = TextInput(path=written(tmp_path), sequences=3, length=16, bos=True)
    with pytest.raises(InputError, match="input 'text': `bos: true`, but neither"):
        built(spec, tmp_path / "run")
    made = built(spec, tmp_path / "run", replace(FACTS, bos_token_id=0))
    assert (made.tokens[:, 0] == 0).all() and "the run's files name it" in made.said
    with pytest.raises(InputError, match="bos: input should be True, False or 'auto', found 1"):
        validated(TextInput, {"path": "x", "bos": 1}, "input")
    beyond = replace(FACTS, vocabulary=BOS)  # BOS has no row: the tokenizer is another model's
    like_llama(tmp_path / "llama")
    with pytest.raises(InputError, match="the run's tokenizer has 280 ids, the model 278 rows"):
        built(spec.model_copy(update={"bos": "auto"}), tmp_path / "llama", beyond)
    with pytest.raises(InputError, match="leaves no room for text after the 2 tokens"):
        like_llama(tmp_path / "two", before="<s> </s>")
        built(TextInput(path=written(tmp_path), length=2), tmp_path / "two")


def test_documents_are_packed_with_the_end_of_text_after_each(tmp_path: Path) -> None:
    tokenizer = like_llama(tmp_path / "run")
    made = built(TextInput(path=data_set(tmp_path), sequences=4, length=24), tmp_path / "run")
    stream = [
        id_ for one in DOCUMENTS
        for id_ in [*tokenizer(one, add_special_tokens=False)["input_ids"], EOS]
    ]  # fmt: skip
    np.testing.assert_array_equal(made.tokens[:, 1:].ravel(), stream[: 4 * 23])
    assert (made.tokens[:, 0] == BOS).all()
    read = int((made.tokens == EOS).sum()) + 1  # the last one is cut
    assert made.said.endswith(f"(as the tokenizer does), {read} documents packed")


def test_documents_apart_leave_out_shorter_ones(tmp_path: Path) -> None:
    tokenizer = like_llama(tmp_path / "run")
    spec = TextInput(path=data_set(tmp_path), sequences=6, length=12, documents="separate")
    made = built(spec, tmp_path / "run")
    every = [tokenizer(one)["input_ids"] for one in DOCUMENTS]  # with BOS
    long = [n for n, ids in enumerate(every) if len(ids) >= 12][:6]
    assert made.tokens.tolist() == [every[n][:12] for n in long]
    short = long[-1] + 1 - 6
    assert short and made.said.endswith(
        f"the beginnings of 6 of {long[-1] + 1} documents, {short} shorter ones left out"
    )
    with pytest.raises(
        InputError, match=r"documents.jsonl: \d+ of 40 documents have at least 23 t"
    ):
        built(spec.model_copy(update={"length": 24, "sequences": 30}), tmp_path / "run")


def test_a_search_for_long_documents_ends(tmp_path: Path) -> None:
    like_gpt2(tmp_path / "run")
    path = data_set(tmp_path, ["cat"] * 2500)
    spec = TextInput(path=path, sequences=2, length=32, documents="separate")
    with pytest.raises(InputError, match="0 of 2,000 documents have at least 32 tokens"):
        built(spec, tmp_path / "run")


def test_too_few_tokens_are_counted_with_what_was_read(tmp_path: Path) -> None:
    like_gpt2(tmp_path / "run")
    path = data_set(tmp_path, ["cat", "", "dog"])
    with pytest.raises(InputError, match=r"tokens in 2 documents \(1 row without text skipped\)"):
        built(TextInput(path=path, sequences=2, length=32), tmp_path / "run")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="holds 0 tokens in 0 documents"):
        built(TextInput(path=str(tmp_path / "empty.jsonl"), sequences=2), tmp_path / "run")


def test_every_kind_of_data_set_gives_the_same_tokens(tmp_path: Path) -> None:
    like_llama(tmp_path / "run")
    lines = Path(data_set(tmp_path))
    gzipped, table, folder = (tmp_path / name for name in ("a.json.gz", "a.parquet", "texts"))
    gzipped.write_bytes(gzip.compress(lines.read_bytes()))
    pd.DataFrame({"text": DOCUMENTS}).to_parquet(table)
    folder.mkdir()
    for n, one in enumerate(DOCUMENTS):
        (folder / f"{n:03}.txt").write_text(one)
    for separate in ("packed", "separate"):
        specs = [
            TextInput(path=str(place), sequences=5, length=12, documents=separate)
            for place in (lines, gzipped, table, folder)
        ]
        assert len({built(spec, tmp_path / "run").digest for spec in specs}) == 1


def test_faults_of_tokenizer_and_data_set_are_told_at_once(tmp_path: Path) -> None:
    path = data_set(tmp_path, ["x"])
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError) as caught:
        built(TextInput(path=path, column="content"), tmp_path / "run")
    assert "no tokenizer can be read" in str(caught.value)
    assert "has no column 'content', but text" in str(caught.value)


def test_natural_matches_search_the_same_sequences(tmp_path: Path) -> None:
    like_llama(tmp_path / "run")
    shared = {"path": written(tmp_path), "sequences": 4, "length": 40}
    text = built(TextInput(**shared), tmp_path / "run")  # type: ignore[arg-type]
    for replaced in ("nothing", "earlier", "last"):
        spec = NaturalMatchesInput(match=2, replaced=replaced, **shared)  # type: ignore[arg-type]
        made = built(spec, tmp_path / "run")
        assert (made.tokens[:, 0] == BOS).all() and BOS not in made.tokens[:, 1:]
        assert made.attributes["begins_with"] == [BOS] and text.said in made.said
    clean = built(NaturalMatchesInput(match=2, **shared), tmp_path / "run")  # type: ignore[arg-type]
    assert {tuple(row) for row in clean.tokens} <= {tuple(row) for row in text.tokens}


def test_ids_of_a_data_set_are_read_row_by_row(tmp_path: Path) -> None:
    rows = [list(range(n, n + 10 + n % 3)) for n in range(9)]
    pd.DataFrame({"input_ids": rows}).to_parquet(tmp_path / "a.parquet")
    spec = ArrayInput(path=str(tmp_path / "a.parquet"), sequences=4, length=11)
    made = built(spec, tmp_path)
    assert made.tokens.tolist() == [rows[n][:11] for n in (1, 2, 4, 5)]
    assert made.said.endswith("2 rows without as many left out")
    saved = ArrayInput(path=str(Path(__file__).parents[2] / "data" / "saved_dataset"), sequences=40,
                       length=12)  # fmt: skip
    assert built(saved, tmp_path).tokens[9].tolist() == list(range(2, 14))
    with pytest.raises(InputError, match=r"6 of 9 rows have at least 11 token ids"):
        built(spec.model_copy(update={"sequences": 7}), tmp_path)
    with pytest.raises(InputError, match="has no column 'tokens', but input_ids"):
        built(spec.model_copy(update={"column": "tokens"}), tmp_path)
    (tmp_path / "b.jsonl").write_text('{"input_ids": [1.5, true]}\n{"input_ids": "text"}\n')
    with pytest.raises(InputError, match="0 of 2 rows"):
        built(ArrayInput(path=str(tmp_path / "b.jsonl"), length=2), tmp_path)


@pytest.fixture(scope="module")
def llama_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two checkpoints of a tiny Llama with its tokenizer, which puts BOS before a text."""
    run = tmp_path_factory.mktemp("bos") / "run"
    config = LlamaConfig(
        vocab_size=280, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
        bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip
    for step in (0, 1):
        torch.manual_seed(step)
        AutoModelForCausalLM.from_config(config).save_pretrained(run / f"step-{step}")
        like_llama(run / f"step-{step}")
    return run


def test_losses_are_those_of_transformers_with_bos(llama_run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        f"checkpoints: {llama_run}\nstore: a.zarr\n"
        f"inputs: {{text: {{kind: text, path: {data_set(tmp_path)}, sequences: 3, length: 20, "
        "documents: separate}}\n"
        "measures: {token_loss: {early_token: 1, late_token: 19}}\n"
    )
    analysis = load_analysis(tmp_path / "a.yaml")
    said = "3 sequences of 20 tokens, with BOS <s> (as the tokenizer does), the beginnings of 3 of "
    assert dry_run(analysis).inputs["text"].startswith(said)
    assert any(row[0] == "input text" and said in row[1] for row in dry_run(analysis).rows())
    summary = analyze(analysis)
    assert summary.worked and summary.inputs["text"].startswith(said)
    group = open_run(analysis.store)["token_loss"].to_dataset()
    tokenizer = like_llama(tmp_path / "again")
    every = [tokenizer(one)["input_ids"] for one in DOCUMENTS]
    ids = torch.tensor([one[:20] for one in every if len(one) >= 20][:3])
    for at, step in enumerate((0, 1)):
        model = AutoModelForCausalLM.from_pretrained(llama_run / f"step-{step}")
        with torch.no_grad():
            logits = model(ids).logits
        expected = -logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        np.testing.assert_allclose(group["loss"][at], expected, rtol=1e-5, atol=1e-5)
        first = -logits[:, 0].log_softmax(-1).gather(1, ids[:, 1:2]).mean()  # given BOS alone
        np.testing.assert_allclose(group["mean_by_position"][at, 0], first, rtol=1e-5)
        late, early = expected[:, 18].mean(), expected[:, 0].mean()  # of tokens 19 and 1
        np.testing.assert_allclose(group["in_context_score"][at], late - early, atol=1e-5)
    shown = token_texts(analysis.store, group.attrs["input"])
    long = [one for one, of in zip(DOCUMENTS, every, strict=True) if len(of) >= 20]
    assert [row[0] for row in shown] == ["<s>"] * 3
    assert all(one.startswith("".join(row[1:])) for one, row in zip(long, shown, strict=False))


def test_a_draft_says_how_sequences_begin(llama_run: Path, tmp_path: Path) -> None:
    machine = Machine(cores=2, memory=2**34, gpus=0)
    made = draft_analysis(str(llama_run), tmp_path / "a.yaml", text=written(tmp_path),
                          machine=machine)  # fmt: skip
    spec = load_analysis(made.file).inputs["text"]
    assert isinstance(spec, TextInput) and spec.bos == "auto" and spec.length == 64
    content = " ".join(Path(made.file).read_text().replace("#", "").split())
    n_tokens = len(like_llama(tmp_path / "again")(PROSE)["input_ids"]) - 1
    assert spec.sequences == n_tokens // 63
    assert f"The first {spec.sequences * 63:,} of the text's {n_tokens:,} tokens" in content
    assert "with BOS <s> (as the tokenizer does)." in content
    made = draft_analysis(str(llama_run), tmp_path / "b.yaml", text=data_set(tmp_path),
                          machine=machine)  # fmt: skip
    assert "tokens of 40 documents" in " ".join(Path(made.file).read_text().split())
    assert dry_run(load_analysis(made.file)).faults == ()
    renamed = Path(data_set(tmp_path)).read_text().replace('"text"', '"body"')
    (tmp_path / "bodies.jsonl").write_text(renamed)
    given = {"text": str(tmp_path / "bodies.jsonl"), "machine": machine}
    with pytest.raises(InputError, match="has no column 'text', but body"):
        draft_analysis(str(llama_run), tmp_path / "c.yaml", **given)  # type: ignore[arg-type]
    made = draft_analysis(str(llama_run), tmp_path / "c.yaml", column="body", **given)  # type: ignore[arg-type]
    assert load_analysis(made.file).inputs["text"].column == "body"  # type: ignore[union-attr]


def test_a_store_without_bos_is_computed_again_only_where_bos_is_new(tmp_path: Path) -> None:
    run = tmp_path / "run"
    AutoModelForCausalLM.from_config(
        GPT2Config(vocab_size=280, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    ).save_pretrained(run / "step-0")
    like_gpt2(run / "step-0")
    settings = "{kind: text, path: %s, sequences: 3, length: 20%s}"
    for bos, computed in (("", 1), (", bos: auto", 0), (", bos: false", 0), (", bos: true", 1)):
        (tmp_path / "a.yaml").write_text(
            f"checkpoints: {run}\nstore: a.zarr\ninputs: {{text: "
            f"{settings % (written(tmp_path), bos)}}}\n"
            "measures: {token_loss: {early_token: 1, late_token: 19}}\n"
        )
        assert len(analyze(load_analysis(tmp_path / "a.yaml")).computed) == computed, bos


def test_keys_without_a_use_are_refused(tmp_path: Path) -> None:
    like_gpt2(tmp_path / "run")
    path = written(tmp_path)
    for spec, says in (
        (TextInput(path=path, column="body"), "prose.txt: is a text, which has no columns"),
        (TextInput(path=path, documents="separate"), "prose.txt: is one text, and so one document"),
        (ArrayInput(path=path, column="body"), "prose.txt: is no data set, and has no columns"),
    ):
        with pytest.raises(InputError, match=says):
            built(spec, tmp_path / "run")
    with pytest.raises(InputError, match="bos, column: means something with `path` alone"):
        validated(NaturalMatchesInput, {"bos": True, "column": "a"}, "input")
    with pytest.raises(InputError, match="expected at least 99 x 63 = 6237 beside BOS"):
        like_llama(tmp_path / "llama")
        built(TextInput(path=path, sequences=99, length=64), tmp_path / "llama")
