import pytest
import yaml

from pipeline.errors import InputError
from pipeline.training import load_run, load_training
from pipeline.training.config import PRESETS, Optimizer, Training, claim

MODULAR = {
    "name": "tiny",
    "output": "out",
    "task": {"kind": "modular_arithmetic", "p": 5},
    "model": {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2},
    "optimizer": {"learning_rate": 0.01},
    "steps": 4,
}


def write(tmp_path, **changes):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**MODULAR, **changes}))
    return path


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_every_preset_describes_a_run_with_enough_checkpoints(preset):
    training = load_training(preset)
    assert training.name == preset and training.output == f"runs/{preset}"
    n_checkpoints = len(training.checkpoints.steps(training.steps))
    assert n_checkpoints == 25 if preset == "stdlib-text" else n_checkpoints >= 60


def test_the_presets_are_packaged():
    assert {path.stem for path in PRESETS.glob("*.yaml")} == {
        "induction", "modular-addition", "modular-addition-113", "stdlib-text",
    }  # fmt: skip


def test_the_task_decides_vocabulary_and_context(tmp_path):
    modular = load_training(write(tmp_path)).organism()
    assert (modular.vocab_size, modular.max_position_embeddings) == (6, 3)
    assert modular.hidden_size == 8 and modular.bos_token_id is None
    text = load_training(write(tmp_path, task={"kind": "text"}, batch_size=2)).organism()
    assert (text.vocab_size, text.max_position_embeddings) == (1024, 128)
    assert text.bos_token_id == text.eos_token_id == 0


def test_relative_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    folder = tmp_path / "configs"
    folder.mkdir()
    path = write(folder, output="../runs/a", task={"kind": "text", "path": "b.txt"}, batch_size=1)
    monkeypatch.chdir(folder)
    training = load_training(path.name)
    assert training.output == str(tmp_path / "runs" / "a")
    assert training.task.path == str(folder / "b.txt")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stepz": 3}, "unknown key 'stepz'; did you mean 'steps'?"),
        ({"model": {"hiden_size": 8}}, "'model.hiden_size'; did you mean 'hidden_size'?"),
        ({"model": {"vocab_size": 8}}, "unknown key 'model.vocab_size'"),
        ({"task": {"kind": "modular_arithmetic", "p": 5, "operator": "add"}},
         "unknown key 'task.modular_arithmetic.operator'; did you mean 'operation'?"),
        ({"optimizer": {"learning_rate": 1, "nesterov": 1}}, "unknown key 'optimizer.nesterov'"),
        ({"steps": "many"}, "steps: input should be a valid integer"),
        ({"steps": 0}, "steps: input should be greater than or equal to 1"),
        ({"seed": True}, "seed: input should be a valid integer, found True"),
        ({"steps": "017"}, "steps: input should be a valid integer, found '017'"),
        ({"model": {"hidden_size": True}}, "hidden_size: input should be a valid integer, found"),
        ({"model": {"layer_norm": 1}}, "layer_norm: input should be a valid boolean, found 1"),
        ({"optimizer": {"learning_rate": float("inf")}}, "learning_rate: input should be a finite"),
        ({"output": "s3://KEY:hush@b/x"}, "output: the address holds credentials"),
        ({"output": "a\nb"}, "output: it holds a line break"),
        ({"seed": -1}, "seed: input should be greater than or equal to 0"),
        ({"task": {"kind": "modular"}}, "'modular_arithmetic', 'repeated_substrings', 'text'"),
        ({"task": {"kind": "modular_arithmetic", "p": 2}}, "p: input should be greater"),
        ({"task": {"kind": "modular_arithmetic", "p": 5, "operation": "adds"}},
         "did you mean 'add'"),
        ({"task": {"kind": "modular_arithmetic", "p": 3, "train_share": 0.1}},
         "at least one train"),
        ({"task": {"kind": "repeated_substrings", "context": 20}, "batch_size": 2},
         "longest <= 10"),
        ({"task": {"kind": "text"}}, "batch_size is missing"),
        ({"batch_size": 11}, "expected at most 10, the number of train pairs"),
        ({"model": {"hidden_size": 9}}, "model.hidden_size must be a multiple of"),
        ({"model": {"positions": "rotary"}}, "model.positions: input should be 'residual' or"),
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_configuration_is_refused_in_one_sentence(changes, sentence, tmp_path):
    with pytest.raises(InputError) as error:
        load_training(write(tmp_path, **changes))
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert "run.yaml: " in str(error.value)


def test_an_unknown_preset_is_refused_with_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'induction'"):
        load_training("inductoin")


def test_the_rate_rises_linearly_and_stays():
    optimizer = Optimizer(learning_rate=0.8, warmup_steps=4)
    assert [optimizer.rate(step) for step in range(6)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 0.8, 0.8]
    )
    assert Optimizer(learning_rate=0.8).rate(0) == 0.8


def test_a_claimed_folder_gives_its_run_back_wherever_it_lies(tmp_path):
    training = Training.model_validate(MODULAR)
    claim(tmp_path, training)
    assert load_run(tmp_path) == training.model_copy(update={"output": str(tmp_path)})
    claim(tmp_path, training.model_copy(update={"output": "elsewhere"}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"seed": 1}, "seed is 0 there, 1 here"), ({"threads": 1}, "threads is 2 there, 1 here")],
)
def test_the_folder_of_another_configuration_is_refused(changes, words, tmp_path):
    claim(tmp_path, Training.model_validate(MODULAR))
    with pytest.raises(InputError, match=f"another configuration.*{words}"):
        claim(tmp_path, Training.model_validate({**MODULAR, **changes}))


def test_the_differing_key_is_named_in_full(tmp_path):
    claim(tmp_path, Training.model_validate(MODULAR))
    task = {"kind": "modular_arithmetic", "p": 7}
    with pytest.raises(InputError, match=r"task\.p is 5 there, 7 here"):
        claim(tmp_path, Training.model_validate({**MODULAR, "task": task}))


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"holds 'thesis\.tex' but no training\.yaml"):
        claim(tmp_path, Training.model_validate(MODULAR))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_is_no_run_has_no_configuration(tmp_path):
    with pytest.raises(InputError, match=r"holds no training\.yaml"):
        load_run(tmp_path)
