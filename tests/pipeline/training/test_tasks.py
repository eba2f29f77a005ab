import math

import numpy as np
import pytest
import torch

from pipeline.errors import InputError
from pipeline.inputs import modular, text
from pipeline.models.organism import OrganismForCausalLM
from pipeline.training import Training, held_out, table_and_split, table_of, tokens_per_step
from pipeline.training.config import claim
from pipeline.training.tasks import step_loss, tokenise_text

MODULAR = {"kind": "modular_arithmetic", "p": 7, "train_share": 0.5}
REPEATS = {
    "kind": "repeated_substrings",
    "vocabulary": 20,
    "context": 16,
    "shortest": 3,
    "longest": 6,
}
TEXT = {"kind": "text", "vocabulary": 300, "context": 8, "held_out_share": 0.2}


def training(task, output="unused", **changes) -> Training:
    settings = {
        "name": "tiny",
        "output": str(output),
        "task": task,
        "model": {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2},
        "optimizer": {"learning_rate": 0.01},
        "steps": 4,
        **changes,
    }
    return Training.model_validate(settings)


@pytest.fixture(scope="module")
def text_run(tmp_path_factory) -> Training:
    folder = tmp_path_factory.mktemp("text")
    words = " ".join(f"{n} squared is {n * n}," for n in range(400))
    (folder / "squares.txt").write_text(words)
    (folder / "run").mkdir()
    run = training({**TEXT, "path": str(folder / "squares.txt")}, folder / "run", batch_size=3)
    claim(folder / "run", run)
    tokenise_text(run)
    return run


def spied_batches(run: Training, steps: int) -> list[torch.Tensor]:
    """Return the ids that a model is given while the loss of each step is computed."""
    model, seen = OrganismForCausalLM(run.organism()), []
    model.model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    loss = step_loss(run)
    for step in range(steps):
        loss(model, step)
    return seen[::2]


def test_the_modular_loss_is_the_mean_answer_loss_over_all_train_pairs():
    run = training(MODULAR)
    model = OrganismForCausalLM(run.organism())
    found = step_loss(run)(model, 0)
    assert found.dtype == torch.float64
    tokens, labels, is_train = table_and_split(run.task)
    total, count = 0.0, 0
    for row, label, train in zip(tokens, labels, is_train, strict=True):
        if train:
            with torch.no_grad():
                logits = model(torch.tensor(row)[None]).logits[0, 2].double()
            total += math.log(sum(math.exp(x) for x in logits)) - logits[label].item()
            count += 1
    assert count == is_train.sum() == 24
    assert found.item() == pytest.approx(total / count, abs=1e-6)


def test_the_answers_are_those_of_the_operation():
    tokens, labels, is_train = table_and_split(training({**MODULAR, "operation": "multiply"}).task)
    assert all(a * b % 7 == c for (a, b, _), c in zip(tokens.tolist(), labels, strict=True))
    assert tokens.shape == (49, 3) and is_train.sum() == 24


def test_modular_batches_draw_train_pairs_without_replacement():
    run = training(MODULAR, batch_size=10)
    tokens, _, is_train = table_and_split(run.task)
    train = {tuple(row) for row in tokens[is_train].tolist()}
    batches = [[tuple(row) for row in ids.tolist()] for ids in spied_batches(run, 6)]
    for batch in batches:
        assert len(set(batch)) == 10 and set(batch) <= train
    assert len({frozenset(batch) for batch in batches}) == 6


def test_the_sequence_loss_is_the_mean_next_token_loss():
    run = training(REPEATS, batch_size=3)
    model, seen = OrganismForCausalLM(run.organism()), []
    model.register_forward_hook(lambda _, args, output: seen.append((args[0], output.logits)))
    found = step_loss(run)(model, 5)
    ids, logits = seen[0]
    assert ids.shape == (3, 15)
    losses = -logits.log_softmax(-1)
    by_hand = [losses[s, t, ids[s, t + 1]].item() for s in range(3) for t in range(14)]
    last = found.item() * 45 - sum(by_hand)  # the last target is no input: one of the 20 ids
    assert any(
        last == pytest.approx(sum(choice), abs=1e-4)
        for choice in np.stack(np.meshgrid(*losses[:, 14].tolist()), -1).reshape(-1, 3)
    )


@pytest.mark.parametrize("task", [REPEATS, MODULAR], ids=lambda t: t["kind"])
def test_a_batch_depends_on_seed_and_step_alone(task):
    first = spied_batches(training(task, batch_size=3), 4)
    again = spied_batches(training(task, batch_size=3), 4)
    other = spied_batches(training(task, batch_size=3, seed=1), 4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[1])


def test_tokens_per_step_is_sequences_times_length():
    assert tokens_per_step(training(MODULAR)) == 24 * 3
    assert tokens_per_step(training(MODULAR, batch_size=5)) == 15
    assert tokens_per_step(training(REPEATS, batch_size=5)) == 80
    assert tokens_per_step(training(TEXT, batch_size=5)) == 40


def test_held_out_repeats_are_seeded_and_meet_no_training_batch():
    run = training(REPEATS, batch_size=50)
    rows = held_out(run, 50, seed=0)
    assert rows.shape == (50, 16) and rows.dtype == np.int64
    assert np.array_equal(rows, held_out(run, 50, seed=0))
    assert not np.array_equal(rows, held_out(run, 50, seed=1))
    seen = {tuple(row) for ids in spied_batches(run, 20) for row in ids.tolist()}
    assert seen.isdisjoint(tuple(row) for row in rows[:, :15].tolist())


def test_text_is_trained_on_before_the_boundary_and_held_out_after_it(text_run):
    ids = np.load(f"{text_run.output}/corpus.npy").astype(np.int64)
    boundary = len(ids) - round(0.2 * len(ids))
    starts = {tuple(ids[i : i + 8]): i for i in range(len(ids) - 7)}
    rows = held_out(text_run, 20, seed=0)
    places = [starts[tuple(row)] for row in rows]
    assert all((place - boundary) % 8 == 0 and place >= boundary for place in places)
    assert len(set(places)) == 20
    # the hook sees all but the last token of each window
    shorter = {tuple(ids[i : i + 7]) for i in range(boundary - 7)}
    drawn = [tuple(row) for batch in spied_batches(text_run, 30) for row in batch.tolist()]
    assert set(drawn) <= shorter and len(set(drawn)) > 60


def test_the_runs_tokenizer_reads_the_corpus_back(text_run):
    tokenizer = text.load_tokenizer(text_run.output)
    decoded = tokenizer.decode(np.load(f"{text_run.output}/corpus.npy").tolist())
    assert decoded.startswith("0 squared is 0, 1 squared is 1,")
    assert decoded.endswith("399 squared is 159201," + text.END_OF_TEXT)


def test_more_held_out_text_than_there_is_is_refused(text_run):
    with pytest.raises(InputError, match=r"sequences of 8 tokens, expected 1000000"):
        held_out(text_run, 1_000_000, seed=0)


def test_a_text_shorter_than_a_context_is_refused(text_run, tmp_path):
    # 20 % of about 10 tokens are no context of 8
    run = text_run.model_copy(update={"output": str(tmp_path)})
    np.save(tmp_path / "corpus.npy", np.arange(10, dtype=np.uint32))
    with pytest.raises(InputError, match="expected at least one context of 8"):
        step_loss(run)


def test_modular_arithmetic_has_a_table_and_no_held_out_sequences(tmp_path):
    run = training(MODULAR)
    with pytest.raises(InputError, match="input of kind 'table'"):
        held_out(run, 1, 0)
    assert table_of(tmp_path) == {}
    claim(tmp_path, run)
    assert table_of(tmp_path) == {"p": 7, "operation": "add", "train_share": 0.5, "split_seed": 0}


def test_a_run_of_another_task_has_no_table(text_run):
    assert table_of(text_run.output) == {}
    assert np.array_equal(held_out(text_run.output, 3, 1), held_out(text_run, 3, 1))


def test_a_run_that_is_split_by_orbits_says_so_to_its_analysis(tmp_path):
    settings = {
        "name": "x", "output": str(tmp_path), "steps": 1, "optimizer": {"learning_rate": 0.1},
        "task": {"kind": "modular_arithmetic", "p": 7, "operation": "x2_y2",
                 "split_generator": "orbits"},
    }  # fmt: skip
    run = Training.model_validate(settings)
    claim(tmp_path, run)
    assert table_of(tmp_path)["split_generator"] == "orbits"
    _, _, is_train = table_and_split(run.task)
    assert np.array_equal(is_train, modular.split(7, 0.4, 0, "orbits", "x2_y2"))
    assert run.task.n_train_pairs == is_train.sum()
