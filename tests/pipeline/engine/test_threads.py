"""Passes whose batches are computed by several threads, each with a replica of the model."""

import gc
import threading
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from transformers import Phi3Config

from pipeline.engine import cross_entropy, forward
from pipeline.engine.batches import activation_bytes, batch_size, batches_of
from pipeline.engine.changes import run_changed
from pipeline.engine.cross_entropy import Unembedding, token_losses
from pipeline.engine.record import PATTERNS, HeadChange, Kept, Pass, merge
from pipeline.engine.replicas import replicas_of
from pipeline.engine.threads import in_threads
from pipeline.inputs import Input
from pipeline.models.layers import uses_interface
from pipeline.models.resident import Resident
from tests.pipeline.engine.test_forward import TOKENS, WANTED, input_of, parts, resident
from tests.pipeline.families import FAMILIES, eager_model

CPU = torch.device("cpu")

LENGTHS = np.array([20, 6, 20, 6, 20, 6, 20])
PADDED = Input("x", "array", TOKENS, {"attention_mask": np.arange(20) < LENGTHS[:, None]})


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Three threads, and as many as before at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for what, tensor in found.items():
        assert torch.equal(tensor.nan_to_num(-1), expected[what].nan_to_num(-1)), what


class TestPasses:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_more_threads_change_no_bit_of_a_record(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With a sequence in each batch, every batch is computed by one thread in any case."""
        monkeypatch.setattr(forward, "batch_size", lambda *_: 1)
        model = resident(name)
        # Smeared keys refuse padding.
        inputs = (input_of(),) if name == "organism_smeared" else (input_of(), PADDED)
        in_three = [parts(forward.run(model, of, WANTED)) for of in inputs]
        torch.set_num_threads(1)
        for found, of in zip(in_three, inputs, strict=True):
            same(found, parts(forward.run(model, of, WANTED)))

    def test_frequencies_from_positions_are_those_of_the_whole_input(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Longrope has other rotary frequencies in batches with more than 8 tokens."""
        config = Phi3Config(
            vocab_size=96,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            pad_token_id=0,
            max_position_embeddings=64,
            original_max_position_embeddings=8,
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 10_000.0,
                "factor": 8.0,
                "long_factor": [4.0] * 4,
                "short_factor": [1.0] * 4,
                "original_max_position_embeddings": 8,
            },
        )
        weights = eager_model(config, "float32").state_dict()
        found = []
        for batch, threads in ((7, 1), (1, 1), (1, 3), (2, 2)):
            monkeypatch.setattr(forward, "batch_size", lambda *_, batch=batch: batch)
            torch.set_num_threads(threads)
            model = Resident(config)
            model.swap(weights)
            found.append(forward.run(model, PADDED, Pass("x", losses=True)).kept_loss)
        for loss in found[1:]:
            torch.testing.assert_close(loss, found[0], atol=2e-5, rtol=0, equal_nan=True)

    def test_a_swap_reaches_the_replicas(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(forward, "batch_size", lambda *_: 1)
        model, other = resident("llama"), resident("llama")
        first = parts(forward.run(model, input_of(), WANTED))
        weights = {name: w * 1.5 for name, w in model.weights.items()}
        for one in (model, other):
            one.swap({name: w.clone() for name, w in weights.items()})
        swapped = parts(forward.run(model, input_of(), WANTED))
        assert not torch.equal(swapped["loss"], first["loss"])
        same(swapped, parts(forward.run(other, input_of(), WANTED)))

    @pytest.mark.parametrize("name", ["gpt_neox", "llama", "gptj", "gpt_neo"])
    def test_changed_heads_are_those_of_one_thread(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(forward, "batch_size", lambda *_: 1)
        model, inputs = resident(name), {"x": PADDED}
        patterns = [frozenset[Kept](), PATTERNS] if uses_interface(model.module) else [frozenset()]
        changed = [
            Pass("x", losses=True, change=HeadChange(((1, head),), "mean", kept))
            for head in (0, 1)
            for kept in patterns
        ]
        found = []
        for threads in (3, 1):
            torch.set_num_threads(threads)
            plain = [one for one in merge(changed) if one.change is None]
            needed = {one.key: forward.run(model, inputs["x"], one) for one in plain}
            made = run_changed(model, inputs, changed, needed)
            assert len(made) == len(changed)
            found.append({str(key): record.kept_loss for key, record in made.items()})
        same(*found)

    def test_threads_left_over_by_few_sequences_are_used_within_operations(self) -> None:
        seen = []

        def work(part: int) -> None:
            seen.append(torch.get_num_threads())

        torch.set_num_threads(4)
        in_threads(work, [0, 1], CPU)
        assert seen == [2, 2] and torch.get_num_threads() == 4


class TestThreads:
    def test_results_are_in_order_and_the_setting_is_kept(self) -> None:
        assert in_threads(lambda part: part * 2, list(range(50)), CPU) == list(range(0, 100, 2))
        assert torch.get_num_threads() == 3
        found: list[int] = []
        later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert found == [3]  # a thread that begins later has it, too

    @pytest.mark.parametrize("mode", [False, True])
    def test_each_thread_is_in_the_mode_of_the_caller(self, mode: bool) -> None:
        with torch.inference_mode(mode):
            modes = in_threads(lambda _: torch.is_inference_mode_enabled(), [0, 1, 2], CPU)
        assert modes == [mode] * 3

    def test_an_error_leaves_no_tensor_behind(self) -> None:
        """Half of a batch is tried after one that was too large, and needs its memory."""
        both, left = threading.Barrier(2, timeout=60), []

        def fail(part: int) -> None:
            tensor = torch.zeros(3)
            left.append(weakref.ref(tensor))
            both.wait()
            raise MemoryError(tensor.shape)

        with pytest.raises(MemoryError):
            in_threads(fail, [0, 1], CPU)
        gc.collect()
        assert [one() for one in left] == [None, None]

    def test_parts_are_computed_at_the_same_time(self) -> None:
        together = threading.Barrier(3, timeout=60)  # raises unless three threads meet
        in_threads(lambda _: together.wait(), [0, 1, 2], CPU)

    def test_an_error_ends_the_pass_and_keeps_its_type(self) -> None:
        def fail(part: int) -> None:
            if part == 1:
                raise torch.OutOfMemoryError("none left")

        with pytest.raises(torch.OutOfMemoryError, match="none left"):
            in_threads(fail, [0, 1, 2], CPU)
        assert torch.get_num_threads() == 3

    def test_a_gpu_gets_one_part_after_another(self) -> None:
        names = in_threads(lambda _: threading.current_thread().name, [0, 1], torch.device("cuda"))
        assert names == [threading.current_thread().name] * 2

    def test_losses_of_one_batch_are_shared_out_by_tiles(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(cross_entropy.TILES, "cpu", (8, 16))
        g = torch.Generator().manual_seed(0)
        h, weight = torch.randn(45, 12, generator=g), torch.randn(50, 12, generator=g)
        targets = torch.randint(0, 50, (45,), generator=g)
        found = token_losses(h, targets, Unembedding(weight))
        expected = torch.nn.functional.cross_entropy(h @ weight.T, targets, reduction="none")
        torch.testing.assert_close(found, expected)


class TestReplicas:
    def test_they_share_weights_and_nothing_that_a_pass_changes(self) -> None:
        module = resident("gpt_neox").module
        (own,) = replicas_of(module, 1)
        for mine, shared in zip(own.parameters(), module.parameters(), strict=True):
            assert mine is shared
        for mine, shared in zip(own.modules(), module.modules(), strict=True):
            assert mine is not shared and mine._forward_hooks is not shared._forward_hooks
        vars(own.get_output_embeddings())["forward"] = None
        assert vars(module.get_output_embeddings()).get("forward", "the class's") is not None

    def test_buffers_are_shared_that_checkpoints_have_and_no_others(self) -> None:
        """Of a model whose code keeps a cache in a buffer, and its length in an attribute."""
        module = resident("llama").module
        norm, rotary = module.model.norm, module.model.rotary_emb
        norm.register_buffer("statistics", torch.zeros(2))
        (own,) = replicas_of(module, 1)
        norm.statistics = torch.ones(2)
        assert own.model.norm.statistics is norm.statistics
        before = rotary.inv_freq.clone()
        own.model.rotary_emb.inv_freq.mul_(2)
        own.model.rotary_emb.register_buffer("cos_cached", torch.zeros(3), persistent=False)
        assert torch.equal(rotary.inv_freq, before) and not hasattr(rotary, "cos_cached")

    @pytest.mark.parametrize("name", ["gpt_neox", "gptj", "organism"])
    def test_they_go_with_their_model(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(forward, "batch_size", lambda *_: 1)
        model = resident(name)
        forward.run(model, input_of(), WANTED)
        of = [weakref.ref(one) for one in (model.module, *replicas_of(model.module, 2))]
        del model
        gc.collect()
        assert [one() for one in of] == [None] * 3

    def test_a_model_that_cannot_be_copied_runs_in_one_thread(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        model, other = resident("gpt2"), resident("gpt2")
        vars(model.module)["lock"] = threading.Lock()
        found = [parts(forward.run(one, input_of(), WANTED)) for one in (model, other)]
        forward.run(model, input_of(), WANTED)
        same(*found)
        assert [one.getMessage() for one in caplog.records] == [
            "GPT2LMHeadModel runs in one thread: cannot pickle '_thread.lock' object"
        ]

    def test_a_model_with_the_result_of_an_operation_runs_in_one_thread(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Torch refuses to copy a tensor with a gradient function, by a RuntimeError."""
        module = resident("gpt2").module
        vars(module)["scale"] = torch.ones(2, requires_grad=True) * 2
        assert replicas_of(module, 2) == []
        assert "runs in one thread: Only Tensors created explicitly" in caplog.text

    def test_they_are_made_once(self) -> None:
        module = resident("gpt2").module
        assert replicas_of(module, 2)[0] is replicas_of(module, 1)[0]


class TestBatches:
    @pytest.mark.parametrize(
        ("n", "most", "together", "threads", "sizes"),
        [
            (4, 3, 1, 1, [2, 2]),
            (7, 3, 1, 1, [2, 2, 3]),
            (5, 9, 1, 1, [5]),
            (12, 7, 3, 1, [6, 6]),
            (12, 1, 3, 1, [3, 3, 3, 3]),
            (16, 3, 1, 2, [2, 3, 3, 2, 3, 3]),
            (5, 9, 1, 2, [2, 3]),
            (1, 9, 1, 2, [1]),
            (7, 3, 1, 2, [1, 2, 2, 2]),
            (12, 99, 6, 8, [6, 6]),
        ],
    )
    def test_batches_are_even_and_as_many_for_each_thread(
        self, n: int, most: int, together: int, threads: int, sizes: list[int]
    ) -> None:
        batches = batches_of(n, most, together, threads)
        assert [b.stop - b.start for b in batches] == sizes
        assert [b.start for b in batches] == [0, *(b.stop for b in batches[:-1])]

    @pytest.mark.parametrize(("rows", "sizes"), [(8, [2] * 4), (3, [1] * 3), (1, [1])])
    def test_batches_are_divided_where_memory_ran_out(self, rows: int, sizes: list[int]) -> None:
        batches = batches_of(rows, most=99, together=1, threads=2, divided=2)
        assert [b.stop - b.start for b in batches] == sizes

    def test_threads_divide_the_memory_that_a_pass_may_take(self) -> None:
        model = resident()
        at = (model.facts, model.module, 20, 1 << 20)
        of_three = batch_size(*at)
        torch.set_num_threads(1)
        assert of_three == batch_size(*at) // 3 > 0
        assert activation_bytes(CPU, 1 << 20) == 1 << 20

    def test_the_input_is_covered_once(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(200):
            together, groups = int(rng.integers(1, 4)), int(rng.integers(1, 30))
            most, threads = int(rng.integers(1, 20)), int(rng.integers(1, 9))
            rows = [
                row
                for batch in batches_of(groups * together, most, together, threads)
                for row in range(batch.start, batch.stop)
            ]
            assert rows == list(range(groups * together))
