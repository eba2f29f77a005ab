"""One pass over one input: batches, dtypes, its record, refused inputs, and its memory."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import transformers as hf

from pipeline.engine import forward
from pipeline.engine.batches import batch_size
from pipeline.engine.record import (
    HeadChange,
    KeyMap,
    KeyPosition,
    Lag,
    OutputOn,
    Pass,
    Record,
    merge,
)
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.models import layers
from pipeline.models.resident import Resident
from tests.pipeline.families import FAMILIES, eager_model, matrices

TOKENS = np.random.default_rng(0).integers(3, 96, (7, 20))
BACK = np.where(np.arange(20) >= 5, np.arange(20) - 5, -1)
ANY = np.random.default_rng(1).integers(-1, np.arange(20) + 1, (7, 20))
WANTED = Pass(
    "x",
    losses=True,
    attention=frozenset({Lag(1), KeyPosition(0), KeyMap(np.tile(BACK, (7, 1))), KeyMap(ANY)}),
    logit_positions=(-1, 0),
    head_outputs=(1,),
    hidden_states=(0, 3),
)


def resident(name: str = "gpt_neox", dtype: str = "float32") -> Resident:
    config = FAMILIES[name]()
    made = Resident(config, dtype=dtype)
    made.swap(eager_model(config, "float32").state_dict())
    return made


def input_of(tokens: np.ndarray = TOKENS) -> Input:
    return Input("x", "array", tokens)


def parts(record: Record) -> dict[str, torch.Tensor]:
    assert record.loss is not None
    return {
        "loss": record.loss,
        **{f"attention {r}": t for r, t in record.attention.items()},
        **{f"logits {p}": t for p, t in record.logits.items()},
        **{f"heads {layer}": t for layer, t in record.head_outputs.items()},
        **{f"stream {layer}": t for layer, t in record.hidden_states.items()},
    }


class TestBatches:
    @pytest.mark.parametrize("batch", [1, 2, 3, 7])
    @pytest.mark.parametrize("name", ["gpt_neox", "gptj"])
    def test_how_sequences_are_batched_changes_nothing_but_rounding(
        self, batch: int, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = resident(name)
        whole = parts(forward.run(model, input_of(), WANTED))
        monkeypatch.setattr(forward, "batch_size", lambda *_: batch)
        for what, tensor in parts(forward.run(model, input_of(), WANTED)).items():
            torch.testing.assert_close(
                tensor, whole[what], atol=2e-5, rtol=0, equal_nan=True, msg=what
            )

    def test_a_pass_repeated_is_the_same_to_the_last_bit(self) -> None:
        model = resident()
        first, second = (parts(forward.run(model, input_of(), WANTED)) for _ in range(2))
        for what, tensor in first.items():
            assert torch.equal(tensor.nan_to_num(-1), second[what].nan_to_num(-1)), what

    def test_less_memory_means_smaller_batches_and_at_least_one_sequence(self) -> None:
        model = resident()
        sizes = [
            batch_size(model.facts, model.module, 20, memory)
            for memory in (None, 1 << 24, 1 << 18, 1 << 16, 1)
        ]
        assert sizes == sorted(sizes, reverse=True) and sizes[-1] == 1 < sizes[2] < sizes[0]

    def test_whole_matrices_count_where_a_family_makes_them(self) -> None:
        by_name, by_hooks = resident("gpt_neox"), resident("gptj")
        at = (512, 1 << 24)
        assert batch_size(by_hooks.facts, by_hooks.module, *at) < batch_size(
            by_name.facts, by_name.module, *at
        )


class TestWhatIsKept:
    def test_nothing_is_kept_that_was_not_asked_for(self) -> None:
        record = forward.run(resident(), input_of(), Pass("x"))
        assert record.loss is None
        assert not (record.attention or record.logits or record.head_outputs)
        assert not record.hidden_states

    def test_shapes_are_those_of_the_contract(self) -> None:
        record = forward.run(resident(), input_of(), WANTED)
        assert record.loss is not None and record.loss.shape == (7, 19)
        assert all(tensor.shape == (3, 7, 4, 20) for tensor in record.attention.values())
        assert {p: t.shape for p, t in record.logits.items()} == {-1: (7, 96), 0: (7, 96)}
        assert record.head_outputs[1].shape == (7, 20, 4, 8)
        assert {n: t.shape for n, t in record.hidden_states.items()} == {
            0: (7, 20, 32), 3: (7, 20, 32),
        }  # fmt: skip

    def test_the_last_stream_is_what_the_final_norm_reads(self) -> None:
        model = resident()
        read: list[torch.Tensor] = []
        norm = model.module.base_model.final_layer_norm
        handle = norm.register_forward_pre_hook(lambda _, args: read.append(args[0].clone()))
        with torch.inference_mode():
            model.module(torch.from_numpy(TOKENS))
        handle.remove()
        record = forward.run(model, input_of(), Pass("x", hidden_states=(3,)))
        torch.testing.assert_close(record.hidden_states[3], read[0], atol=1e-5, rtol=0)

    def test_records_are_ordinary_tensors_that_a_measure_may_change(self) -> None:
        for tensor in parts(forward.run(resident(), input_of(), WANTED)).values():
            assert tensor.device.type == "cpu" and not tensor.is_inference()
            tensor.add_(1)

    def test_no_gradient_is_kept_in_a_thread_of_its_own(self) -> None:
        """Grad mode belongs to a thread: a new one starts with gradients enabled."""
        model, records = resident(), []
        thread = threading.Thread(
            target=lambda: records.append(forward.run(model, input_of(), WANTED))
        )
        thread.start()
        thread.join()
        assert all(not t.requires_grad for t in parts(records[0]).values())

    def test_a_model_still_answers_as_before_after_a_pass(self) -> None:
        model = resident()
        tokens = torch.from_numpy(TOKENS)
        expected = eager_model(FAMILIES["gpt_neox"](), "float32")(tokens).logits
        forward.run(model, input_of(), WANTED)
        with torch.inference_mode():
            torch.testing.assert_close(model.module(tokens).logits, expected, atol=1e-4, rtol=0)


class TestDtypes:
    @pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "mixtral", "gptj"])
    def test_float32_losses_are_those_of_float64(self, name: str) -> None:
        oracle = eager_model(FAMILIES[name](), "float32").double()
        found = forward.run(resident(name), input_of(), Pass("x", losses=True)).loss
        expected = matrices(oracle, torch.from_numpy(TOKENS))[1]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0, check_dtype=False)

    def test_a_pass_in_float64_takes_the_resident_s_weights_there(self) -> None:
        model = resident()
        oracle = eager_model(FAMILIES["gpt_neox"](), "float32").double()
        found = forward.run(model, input_of(), Pass("x", losses=True, dtype="float64")).loss
        expected = matrices(oracle, torch.from_numpy(TOKENS))[1]
        assert found is not None and found.dtype == torch.float64
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)

    def test_a_pass_after_a_swap_sees_the_new_weights(self) -> None:
        model = resident()
        for dtype in ("", "float64"):
            before = forward.run(model, input_of(), Pass("x", losses=True, dtype=dtype)).loss
            model.swap({name: w * 0.5 for name, w in model.module.state_dict().items()})
            after = forward.run(model, input_of(), Pass("x", losses=True, dtype=dtype)).loss
            assert before is not None and after is not None
            assert (before - after).abs().max() > 1e-2

    def test_half_precision_records_are_float32(self) -> None:
        record = forward.run(resident(dtype="bfloat16"), input_of(), WANTED)
        full = forward.run(resident(), input_of(), WANTED)
        for what, tensor in parts(record).items():
            assert tensor.dtype == torch.float32, what
        assert record.loss is not None and full.loss is not None
        assert (record.loss - full.loss).abs().mean() < 0.1
        for request, found in record.attention.items():
            assert (found - full.attention[request]).abs().nanmean() < 0.02


class TestRefusals:
    @pytest.mark.parametrize("bad", [96, -1])
    def test_token_ids_outside_of_the_vocabulary(self, bad: int) -> None:
        tokens = TOKENS.copy()
        tokens[3, 3] = bad
        with pytest.raises(InputError, match="vocabulary"):
            forward.run(resident(), input_of(tokens), WANTED)

    def test_sequences_longer_than_the_context(self) -> None:
        with pytest.raises(InputError, match="context is 64"):
            forward.run(resident(), input_of(np.full((1, 65), 5)), Pass("x", losses=True))


class TestMerge:
    def test_one_pass_serves_all_that_differ_in_what_they_keep(self) -> None:
        first = Pass("x", losses=True, head_outputs=(1,), attention=frozenset({Lag(1)}))
        second = Pass("x", hidden_states=(0, 2), head_outputs=(0, 1), logit_positions=(-1,))
        assert merge([first, second]) == [
            Pass("x", True, frozenset({Lag(1)}), (-1,), head_outputs=(1, 0), hidden_states=(0, 2))
        ]

    def test_passes_of_different_interventions_stay_apart(self) -> None:
        plain = Pass("x", losses=True)
        ablated = Pass("x", losses=True, change=HeadChange(((0, 1),)))
        assert merge([plain, ablated, plain]) == [plain, ablated]

    def test_what_a_changed_pass_starts_from_is_kept_before_it(self) -> None:
        patched = Pass("x", losses=True, change=HeadChange(((2, 0), (1, 3)), OutputOn("y")))
        assert merge([patched, Pass("x", losses=True)]) == [
            Pass("x", losses=True, hidden_states=(1,)), Pass("y", head_outputs=(1, 2)), patched
        ]  # fmt: skip


LONG = """
import resource, numpy as np, torch, transformers as hf
from pipeline.engine import forward
from pipeline.engine.batches import batch_size
from pipeline.inputs import Input
from pipeline.models.resident import Resident
from pipeline.engine.record import KeyPosition, Lag, Pass
torch.set_num_threads(1)
config = hf.{kind}(hidden_size=16, num_hidden_layers=1, num_attention_heads=4, vocab_size=64,
    num_key_value_heads=4, intermediate_size=32, max_position_embeddings=8192, {more})
model = Resident(config)
model.swap({{name: torch.randn_like(w) * 0.1 for name, w in model.weights.items()}})
for length in (1024, 4096, 8192):
    tokens = np.zeros((1, length), dtype=np.int64)
    wanted = Pass("x", losses=True, attention=frozenset({{Lag(1), KeyPosition(0)}}))
    forward.run(model, Input("x", "array", tokens), wanted)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("GPTNeoXConfig", ""),
        ("MistralConfig", "sliding_window=3000"),
        ("Gemma2Config", "head_dim=4"),
    ],
)
def test_memory_grows_with_the_context_and_not_with_its_square(kind: str, more: str) -> None:
    """One attention matrix of one head would take 67 MB at 4,096 tokens, 268 MB at 8,192."""
    script = LONG.format(kind=kind, more=more)
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    at_1024, at_4096, at_8192 = map(int, out.stdout.split()[-3:])
    assert at_8192 - at_4096 < 128 * 2**20
    assert at_8192 - at_1024 < 256 * 2**20


def test_the_shapes_of_organisms_and_of_trained_models_share_one_path() -> None:
    """Models of `GPT2Config`, `LlamaConfig` and the organism's own need no case of their own."""
    for config in (FAMILIES["gpt2"](), FAMILIES["llama"](), FAMILIES["organism"]()):
        assert layers.uses_interface(Resident(config).module)
    assert not layers.uses_interface(Resident(hf.GPTJConfig(**_SMALL)).module)


_SMALL = {"n_embd": 32, "n_layer": 1, "n_head": 4, "vocab_size": 96, "rotary_dim": 4}
