"""Weights that are copied ahead are those of the file, whatever their sizes, dtypes and sharing.

On the CPU, the same code runs with torch's streams and events for the CPU, which do nothing;
`Late` stands for a GPU that makes each copy as late as the events allow. tests/gpu/swap.py copies
to a real one.
"""

import logging
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.models import transfer
from pipeline.models.resident import Resident
from pipeline.models.transfer import CopiedAhead, Transfer
from pipeline.models.weights import read_weights
from tests.pipeline.families import FAMILIES, eager_model
from tests.simulated_cuda import simulated_cuda
from tests.simulated_device import CUDA

CPU = torch.device("cpu")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool)


def tensors() -> dict[str, Tensor]:
    """Return tensors of all dtypes, sizes around the buffer's, and unusual layouts."""
    torch.manual_seed(0)
    found = {f"{d}-{n}": torch.randn(n).mul(9).to(d) for d in DTYPES for n in (0, 1, 63, 64, 1000)}
    wide = torch.randn(30, 40)
    return found | {"scalar": torch.tensor(3.5), "transposed": wide.T, "part": wide[3:9, ::2]}


@pytest.mark.parametrize("buffer", [8, 256, 1 << 20])
def test_copies_are_equal_to_the_tensors_and_share_no_memory_with_them(buffer: int) -> None:
    weights = tensors()
    dtypes = {name: tensor.dtype for name, tensor in weights.items()}
    copied = Transfer(CPU, 0, buffer).ahead(weights, dtypes)
    assert isinstance(copied, CopiedAhead)
    assert copied.keys() == weights.keys()
    for name, tensor in weights.items():
        assert copied[name].dtype == tensor.dtype
        assert torch.equal(copied[name], tensor), name
        assert not tensor.numel() or copied[name].data_ptr() != tensor.data_ptr()


def test_buffers_are_used_again_without_changing_earlier_copies() -> None:
    sender = Transfer(CPU, 0, buffer=64)
    first, second = torch.arange(100.0), -torch.arange(100.0)
    one = sender.ahead({"w": first}, {"w": torch.float32})
    other = sender.ahead({"w": second}, {"w": torch.float32})
    assert torch.equal(one["w"], first)
    assert torch.equal(other["w"], second)


def test_half_precision_is_converted_as_torch_converts_it() -> None:
    weights = {str(d): torch.randn(500).to(d) for d in (torch.float16, torch.bfloat16)}
    weights["wide"] = torch.randn(500) * 1e30
    for dtype in (torch.float32, torch.bfloat16):
        copied = Transfer(CPU, 0).ahead(weights, dict.fromkeys(weights, dtype))
        for name, tensor in weights.items():
            assert torch.equal(copied[name], tensor.to(dtype))


def test_names_of_one_tensor_share_one_copy_and_views_of_it_do_not() -> None:
    whole = torch.randn(4, 6)
    weights = {"a": whole, "b": whole.view(4, 6), "row": whole[0], "column": whole[:, 0]}
    copied = Transfer(CPU, 0).ahead(weights, dict.fromkeys(weights, torch.float32))
    assert copied["a"].data_ptr() == copied["b"].data_ptr()
    assert len({copied[name].data_ptr() for name in weights}) == 3
    assert all(torch.equal(copied[name], weights[name]) for name in weights)


def test_tensors_that_are_not_named_stay_where_they_are() -> None:
    weights = {"used": torch.ones(3), "other": torch.ones(3), "absent": torch.ones(3).to("meta")}
    copied = Transfer(CPU, 0).ahead(weights, {"used": torch.float32})
    assert copied["other"] is weights["other"]
    assert copied["absent"] is weights["absent"]


class Late:
    """Streams of a device whose copies are made when something waits for an event after them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._work: list[Callable[[], object]] = []
        self._done = 0
        copy = Tensor.copy_

        def queued(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
            if not non_blocking:
                return copy(target, source)
            self._work.append(partial(copy, target, source))
            return target

        monkeypatch.setattr(Tensor, "copy_", queued)
        monkeypatch.setattr(torch, "get_device_module", lambda _: self)

    def Stream(self, _: torch.device) -> "Late":
        return self

    def Event(self) -> "LateEvent":
        return LateEvent(self)

    def stream(self, _: "Late") -> Any:
        return nullcontext()

    def current_stream(self, _: torch.device) -> None:
        """Return nothing that `LateEvent.wait` needs."""

    @property
    def queued(self) -> int:
        return len(self._work)

    def work_until(self, end: int) -> None:
        for one in self._work[self._done : end]:
            one()
        self._done = max(self._done, end)


class LateEvent:
    """An event on the only stream of a `Late`."""

    def __init__(self, device: Late) -> None:
        self._device, self._end = device, 0

    def record(self, _: Late) -> None:
        self._end = self._device.queued

    def wait(self, _: None) -> None:
        self._device.work_until(self._end)

    def synchronize(self) -> None:
        self.wait(None)


def test_events_keep_copies_in_order_where_the_device_makes_them_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A buffer is not filled before it was sent, and a model waits for the last copy."""
    device = Late(monkeypatch)
    sender = Transfer(CPU, 0, buffer=64)
    sets = [{"w": torch.randn(100), "b": torch.randn(3)} for _ in range(3)]
    for weights in sets:
        copied = sender.ahead(weights, dict.fromkeys(weights, torch.float32))
        assert device._done < device.queued  # there is something to wait for
        sender.await_copies(copied)
        assert all(torch.equal(copied[name], tensor) for name, tensor in weights.items())


def test_memory_of_copies_is_kept_for_the_stream_that_uses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded: list[Tensor] = []
    weights = {"w": torch.randn(100), "half": torch.randn(5).half(), "other": torch.ones(2)}
    with simulated_cuda():
        monkeypatch.setattr(Tensor, "record_stream", lambda tensor, _: recorded.append(tensor))
        sender = Transfer(CUDA, 0)
        copied = sender.ahead(weights, {"w": torch.float32, "half": torch.float32})
        sender.await_copies(copied)
        monkeypatch.undo()
    assert {id(one) for one in recorded} == {id(copied["w"]), id(copied["half"])}
    assert copied["half"].is_cuda and not copied["other"].is_cuda


class TestWithoutMemory:
    def test_weights_stay_until_there_is_room(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        weights, dtypes = {"w": torch.ones(100, dtype=torch.float16)}, {"w": torch.float32}
        sender = Transfer(CPU, reserve=1000)
        monkeypatch.setattr(transfer, "free_bytes", lambda device: 1399)
        with caplog.at_level(logging.WARNING):
            assert sender.ahead(weights, dtypes) is weights
            assert sender.ahead(weights, dtypes) is weights
        (record,) = caplog.records  # said once
        assert "takes 400 bytes and computing 1,000, and 1,399 are free" in record.message
        monkeypatch.setattr(transfer, "free_bytes", lambda device: 1400)
        assert isinstance(sender.ahead(weights, dtypes), CopiedAhead)

    def test_the_end_of_copying_is_logged_also_after_a_lack_of_room(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(transfer, "free_bytes", lambda device: 0)
        sender = Transfer(CPU, reserve=1000)
        sender.ahead({"w": torch.ones(1)}, {"w": torch.float32})
        for _ in range(2):
            sender.free("memory ran out")
        assert ["memory ran out" in text for text in caplog.messages] == [False, True]

    def test_memory_that_runs_out_ends_copying(self, caplog: pytest.LogCaptureFixture) -> None:
        # 40 TB when it is copied, and one number here.
        weights = {"small": torch.ones(2), "huge": torch.ones(1).expand(10**13)}
        sender = Transfer(CPU, 0)
        with caplog.at_level(logging.WARNING):
            assert sender.ahead(weights, dict.fromkeys(weights, torch.float32)) is weights
        assert "could not be copied" in caplog.text
        few = {"small": torch.ones(2)}
        assert sender.ahead(few, {"small": torch.float32}) is few

    def test_other_errors_are_raised(self) -> None:
        sender = Transfer(CPU, 0)
        sender.ahead({"w": torch.ones(1)}, {"w": torch.float32})
        sparse = {"w": torch.eye(3).to_sparse()}
        with pytest.raises(RuntimeError):
            sender.ahead(sparse, {"w": torch.float32})


class TestFreeing:
    """Memory ran out while computing: what was copied ahead goes back."""

    def test_the_device_keeps_none_of_it_and_the_numbers_are_the_same(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        whole = torch.randn(4, 6)
        weights = {"a": whole, "b": whole.view(4, 6), "half": torch.randn(5).half()}
        weights |= {"other": torch.ones(2), "absent": torch.ones(3).to("meta")}
        with simulated_cuda(), caplog.at_level(logging.WARNING):
            sender = Transfer(CUDA, 0)
            copied = sender.ahead(weights, dict.fromkeys(("a", "b", "half"), torch.float32))
            on_device = [weakref.ref(copied[name]) for name in ("a", "half")]
            assert copied["a"].is_cuda and copied["half"].is_cuda
            sender.free("memory ran out")
            assert [one() for one in on_device] == [None, None]
            assert sender.ahead(weights, {"a": torch.float32}) is weights
            sender.await_copies(copied)
        assert [one.device.type for one in copied.values()] == ["cpu"] * 4 + ["meta"]
        assert all(torch.equal(copied[name], weights[name].float()) for name in list(weights)[:4])
        assert copied["a"] is copied["b"]
        assert copied["other"] is weights["other"] and copied["absent"] is weights["absent"]
        (ended, moved) = caplog.messages
        assert "not copied to cuda:0 while it computes: memory ran out" in ended
        assert "moved to main memory, freeing 116 bytes" in moved  # 4 * 6 * 4 and 5 * 4

    def test_numbers_that_are_still_on_their_way_are_waited_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        device = Late(monkeypatch)
        sender = Transfer(CPU, 0, buffer=64)
        weights = {"w": torch.randn(100)}
        copied = sender.ahead(weights, {"w": torch.float32})
        assert device._done < device.queued
        sender.free("memory ran out")
        assert torch.equal(copied["w"], weights["w"])

    def test_a_copy_under_way_is_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        begun, may_end, made = threading.Event(), threading.Event(), []
        send = transfer._Buffers.sent

        def slowly(buffers: Any, tensor: Tensor) -> Tensor:
            begun.set()
            assert may_end.wait(20)
            return send(buffers, tensor)

        monkeypatch.setattr(transfer._Buffers, "sent", slowly)
        weights = {"w": torch.randn(100), "b": torch.randn(3)}
        with simulated_cuda():
            sender = Transfer(CUDA, 0)
            dtypes = dict.fromkeys(weights, torch.float32)
            copying = threading.Thread(target=lambda: made.append(sender.ahead(weights, dtypes)))
            freeing = threading.Thread(target=sender.free, args=("memory ran out",))
            copying.start()
            assert begun.wait(20)
            freeing.start()
            freeing.join(0.2)
            assert freeing.is_alive()
            may_end.set()
            freeing.join(20)
            copying.join(20)
        assert all(not made[0][name].is_cuda for name in weights)
        assert all(torch.equal(made[0][name], tensor) for name, tensor in weights.items())

    def test_weights_that_are_in_the_model_or_given_up_are_left_alone(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        weights, dtypes = {"w": torch.ones(3)}, {"w": torch.float32}
        in_model, given_up = Transfer(CPU, 0), Transfer(CPU, 0)
        copied = in_model.ahead(weights, dtypes)
        tensor = copied["w"]
        in_model.await_copies(copied)
        given_up.ahead(weights, dtypes)
        with caplog.at_level(logging.WARNING):
            in_model.free("memory ran out")
            given_up.free("memory ran out")
        assert copied["w"] is tensor
        assert ["memory ran out" in text for text in caplog.messages] == [True, True]

    def test_they_stay_where_main_memory_runs_out_too(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        sender, huge = Transfer(CPU, 0), torch.ones(1).expand(10**13)  # 40 TB when it is copied
        copies = {"small": torch.ones(2), "huge": huge}
        monkeypatch.setattr(sender, "_copied", lambda *_: copies)
        copied = sender.ahead({"small": torch.ones(2), "huge": huge}, {"small": torch.float32})
        with caplog.at_level(logging.WARNING):
            sender.free("memory ran out")
        assert copied["huge"] is huge and copied["small"] is copies["small"]
        assert "weights copied to cpu ahead stay there" in caplog.messages[-1]


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "bfloat16") for name in FAMILIES), ("gpt_neox", "float32")]
)
def test_a_model_gets_the_same_weights_as_without_copying(
    name: str, dtype: str, tmp_path: Path
) -> None:
    model = eager_model(FAMILIES[name](), "float32")
    model.save_pretrained(tmp_path)
    weights = read_weights(tmp_path)
    plain, ahead = Resident(tmp_path, dtype=dtype), Resident(tmp_path, dtype=dtype)
    plain.swap(weights)
    sender = Transfer(CPU, 0)
    copied = sender.ahead(weights, ahead.dtypes(weights))
    sender.await_copies(copied)
    ahead.swap(copied)
    expected, found = plain.module.state_dict(), ahead.module.state_dict()
    assert expected.keys() == found.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key
    if isinstance(copied, CopiedAhead):  # the swap only assigns
        in_model = {tensor.data_ptr() for tensor in found.values()}
        floats = [copied[key] for key in ahead.dtypes(weights)]
        assert all(tensor.data_ptr() in in_model for tensor in floats)


def test_weights_that_were_not_read_are_not_copied(tmp_path: Path) -> None:
    eager_model(FAMILIES["gpt2"](), "float32").save_pretrained(tmp_path)
    weights = read_weights(tmp_path)
    chosen = sorted(weights)[:3]
    some = {n: t if n in chosen else t.to("meta") for n, t in weights.items()}
    resident = Resident(tmp_path)
    assert sorted(resident.dtypes(some)) == chosen
    resident.swap(Transfer(CPU, 0).ahead(some, resident.dtypes(some)))
    assert {p.device.type for p in resident.module.parameters()} == {"cpu", "meta"}


def test_infinite_weights_become_nan_also_where_they_were_copied(tmp_path: Path) -> None:
    model = eager_model(FAMILIES["llama"](), "float32")
    model.save_pretrained(tmp_path)
    weights = {name: tensor.clone() for name, tensor in read_weights(tmp_path).items()}
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name][1, 2], weights[name][0, 0] = torch.inf, -torch.inf
    resident = Resident(tmp_path)
    resident.swap(Transfer(CPU, 0).ahead(weights, resident.dtypes(weights)))
    found = resident.module.state_dict()
    wrong = {key: int((~tensor.isfinite()).sum()) for key, tensor in found.items()}
    assert {key: n for key, n in wrong.items() if n} == {name: 2}
    assert found[name].isnan()[1, 2]
    assert found[name].isnan()[0, 0]


def test_a_thread_may_copy_while_another_computes() -> None:
    """Copies of many checkpoints, each compared while the next one is copied."""
    sender, made, wrong = Transfer(CPU, 0, buffer=1 << 12), [], []
    ready, taken = threading.Semaphore(0), threading.Semaphore(1)

    def copy() -> None:
        for step in range(20):
            taken.acquire()
            weights = {str(i): torch.full((3000,), float(step * 10 + i)) for i in range(5)}
            made.append(sender.ahead(weights, dict.fromkeys(weights, torch.float32)))
            ready.release()

    thread = threading.Thread(target=copy)
    thread.start()
    for step in range(20):
        ready.acquire()
        copied = made[step]
        taken.release()
        wrong += [i for i in range(5) if not bool((copied[str(i)] == step * 10 + i).all())]
    thread.join()
    assert not wrong
