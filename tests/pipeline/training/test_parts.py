"""Parts that are put in from another checkpoint and kept, and optimizers, by hand."""

import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import InputError
from pipeline.models.organism import OrganismForCausalLM
from pipeline.training import Training, train
from pipeline.training.tasks import dropout_seed, step_loss

SIZES = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4}
HEADS = slice(4, 8)  # of head 1, whose d_head is 4


def training(output, **changes) -> Training:
    settings = {
        "name": "tiny",
        "output": str(output),
        "task": {"kind": "repeated_substrings", "vocabulary": 9, "context": 12, "shortest": 2,
                 "longest": 5},
        "model": SIZES,
        "optimizer": {"learning_rate": 0.01, "weight_decay": 0.1},
        "steps": 4,
        "batch_size": 4,
        "threads": 1,
        "checkpoints": {"log_until": 4, "every": 5},
    }  # fmt: skip
    return Training.model_validate(settings | changes)


def weights(run: Training, step: int) -> dict[str, torch.Tensor]:
    return load_file(f"{run.output}/step-{step}/model.safetensors")


@pytest.fixture(scope="module")
def donor(tmp_path_factory) -> Training:
    run = training(tmp_path_factory.mktemp("donor") / "run", seed=5)
    train(run)
    return run


OPTIMIZERS = [
    {"learning_rate": 0.01, "weight_decay": 0.1},
    {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.1, "clip_norm": 0.5},
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_head_and_an_embedding_that_are_put_in_stay_bit_for_bit(donor, tmp_path, optimizer):
    place = f"{donor.output}/step-4"
    keep = [{"checkpoint": place, "heads": ["L0H1"], "parameters": ["model.embed_tokens.*"]}]
    run = training(tmp_path / "run", keep=keep, optimizer=optimizer)
    train(run)
    given, fresh = weights(donor, 4), training(tmp_path / "other", optimizer=optimizer)
    train(fresh)
    first, plain = weights(run, 0), weights(fresh, 0)
    layer = "model.layers.0.self_attn."
    for step in (0, 1, 2, 4):
        now = weights(run, step)
        assert torch.equal(now["model.embed_tokens.weight"], given["model.embed_tokens.weight"])
        for name in ("q_proj", "k_proj", "v_proj"):
            name = f"{layer}{name}.weight"
            assert torch.equal(now[name][HEADS], given[name][HEADS])
        name = f"{layer}o_proj.weight"
        assert torch.equal(now[name][:, HEADS], given[name][:, HEADS])
    for name in (f"{layer}q_proj.weight", "model.layers.1.self_attn.q_proj.weight"):
        assert torch.equal(first[name][8:], plain[name][8:])  # all else is as it was drawn
        assert not torch.equal(weights(run, 4)[name][8:], first[name][8:])  # and trained


def test_a_part_may_be_put_in_and_trained_on(donor, tmp_path):
    keep = [{"checkpoint": f"{donor.output}/step-4", "parameters": ["lm_head.weight"],
             "frozen": False}]  # fmt: skip
    run = training(tmp_path / "run", keep=keep)
    train(run)
    given = weights(donor, 4)["lm_head.weight"]
    assert torch.equal(weights(run, 0)["lm_head.weight"], given)
    assert not torch.equal(weights(run, 1)["lm_head.weight"], given)


def test_a_part_without_a_checkpoint_keeps_what_the_seed_gives(tmp_path):
    run = training(tmp_path / "run", keep=[{"parameters": ["model.layers.1.*"]}])
    train(run)
    first, last = weights(run, 0), weights(run, 4)
    same = {name for name in first if torch.equal(first[name], last[name])}
    assert same == {name for name in first if name.startswith("model.layers.1.")}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"parameters": ["model.embed_token.weight"]}, "no parameter is named"),
        ({"heads": ["L2H0"]}, "there is no head L2H0: the model has 2 layers of 4 heads"),
        ({"heads": ["L0H4"]}, "there is no head L0H4"),
        ({"heads": ["0.1"]}, "keep.0.heads.0"),
        ({}, "name at least one"),
        ({"heads": ["L0H1"], "frozen": False}, "needs a checkpoint, or is frozen"),
    ],
)
def test_a_part_that_is_not_there_is_refused(tmp_path, part, message):
    with pytest.raises((InputError, ValueError), match=message):
        train(training(tmp_path / "run", keep=[part]))


def test_a_donor_of_other_sizes_is_refused(donor, tmp_path):
    keep = [{"checkpoint": f"{donor.output}/step-4", "parameters": ["lm_head.weight"]}]
    run = training(tmp_path / "run", keep=keep, model=SIZES | {"hidden_size": 32})
    with pytest.raises(InputError, match=r"lm_head.weight is of shape \(9, 16\), expected"):
        train(run)


def test_an_interrupted_run_drops_the_same_and_keeps_the_same(donor, tmp_path):
    changes = {
        "model": SIZES | {"dropout": 0.2, "head_dropout": 0.3},
        "keep": [{"checkpoint": f"{donor.output}/step-4", "heads": ["L1H0"]}],
        "checkpoints": {"log_until": 1, "every": 2},
    }
    whole, halved = training(tmp_path / "a", **changes), training(tmp_path / "b", **changes)
    train(whole)

    class StoppedError(Exception):
        pass

    def stop(done: int, total: int, loss: float) -> None:
        if done == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(halved, stop)
    train(halved)
    for step in (0, 1, 2, 4):
        one, other = weights(whole, step), weights(halved, step)
        assert all(torch.equal(one[name], other[name]) for name in one)


def gradients(run: Training) -> dict[str, torch.Tensor]:
    torch.manual_seed(run.seed)
    model = OrganismForCausalLM(run.organism()).train()
    step_loss(run)(model, 0).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_the_first_steps_of_sgd_are_those_by_hand(tmp_path):
    optimizer = {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01,
                 "clip_norm": 0.25}  # fmt: skip
    run = training(tmp_path / "run", optimizer=optimizer)
    train(run)
    first, second = weights(run, 0), weights(run, 1)
    grads = gradients(run)
    norm = torch.sqrt(sum((g.double() ** 2).sum() for g in grads.values()))
    assert norm > 0.25
    for name, grad in grads.items():
        by_hand = first[name] - 0.1 * (grad * 0.25 / norm + 0.01 * first[name])
        torch.testing.assert_close(second[name], by_hand.float(), rtol=1e-4, atol=1e-7)


def test_momentum_of_adamw_is_refused(tmp_path):
    with pytest.raises(ValueError, match="AdamW has betas instead"):
        training(tmp_path, optimizer={"learning_rate": 0.1, "momentum": 0.9})


def test_the_seed_of_batches_is_apart_from_that_of_weights(tmp_path):
    runs = [training(tmp_path / str(i), seed=i, data_seed=7) for i in (0, 1)]
    model = OrganismForCausalLM(runs[0].organism())
    losses = [step_loss(run)(model, 3).item() for run in runs]
    assert losses[0] == losses[1]
    assert step_loss(training(tmp_path / "2", seed=0))(model, 3).item() != losses[0]


def test_whole_heads_are_dropped_by_sequence_and_only_in_training():
    config = training("x", model=SIZES | {"head_dropout": 0.5, "num_hidden_layers": 1}).organism()
    torch.manual_seed(0)
    model = OrganismForCausalLM(config)
    attention = model.model.layers[0].self_attn
    seen = []
    attention.o_proj.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    tokens = torch.randint(9, (64, 12))
    with torch.no_grad():
        model.eval()(tokens)
        model.train()(tokens)
    plain, dropped = (one.unflatten(-1, (4, 4)) for one in seen)
    is_zero = (dropped == 0).all(dim=(1, 3))
    assert 0.35 < is_zero.float().mean() < 0.65
    kept = ~is_zero[:, None, :, None].expand_as(plain)
    torch.testing.assert_close(dropped[kept], 2 * plain[kept])


def test_dropout_sets_a_share_of_each_contribution_to_zero():
    config = training("x", model=SIZES | {"dropout": 0.25}).organism()
    torch.manual_seed(0)
    layer = OrganismForCausalLM(config).train().model.layers[0]
    x = torch.randn(32, 12, 16)
    with torch.no_grad():
        added = layer(x, None, None, slice(None)) - x
    assert 0.2 < float((added == 0).float().mean()) < 0.3


def test_a_config_without_dropout_is_saved_as_before():
    content = training("x").organism().to_dict()
    assert "dropout" not in content and "head_dropout" not in content
    assert training("x", model=SIZES | {"dropout": 0.1}).organism().to_dict()["dropout"] == 0.1
    with pytest.raises(ValueError, match=r"head_dropout must be in \[0, 1\)"):
        training("x", model=SIZES | {"head_dropout": 1.0})


def test_the_seeds_of_what_is_dropped_differ_by_step():
    run = training("x")
    assert len({dropout_seed(run, step) for step in range(100)}) == 100
