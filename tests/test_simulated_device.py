"""The simulated device refuses what a GPU refuses, and computes what a CPU computes."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.host_reads import HostReads
from tests.simulated_cuda import simulated_cuda
from tests.simulated_device import CUDA, SimulatedTensor

HOST = torch.arange(1.0, 4.0)


@pytest.fixture(autouse=True)
def device() -> Iterator[None]:
    with simulated_cuda():
        yield


MADE: dict[str, Callable[[], Tensor]] = {
    "zeros": lambda: torch.zeros(3, device="cuda"),
    "arange": lambda: torch.arange(5, device="cuda"),
    "tensor": lambda: torch.tensor([1.0, 2.0], device="cuda"),
    "full": lambda: torch.full((2,), 3.0, device="cuda"),
    "eye": lambda: torch.eye(2, device="cuda"),
    "linspace": lambda: torch.linspace(0, 1, 3, device="cuda"),
    "as_tensor": lambda: torch.as_tensor(np.ones(3), device="cuda"),
    "empty_like": lambda: torch.empty_like(HOST, device="cuda"),
    "to": lambda: HOST.to("cuda"),
    "cuda": lambda: HOST.cuda(),
    "linear": lambda: nn.Linear(3, 2).to("cuda").weight,
    "new_zeros": lambda: HOST.to("cuda").new_zeros(2),
    "slice": lambda: HOST.to("cuda")[1:],
    "host index": lambda: HOST.to("cuda")[torch.tensor([0, 2])],
    "host scalar": lambda: HOST.to("cuda") * HOST.sum(),
    "row": lambda: next(iter(HOST.to("cuda"))),
}


@pytest.mark.parametrize("name", MADE)
def test_tensors_made_there_say_so_and_have_the_right_shape(name: str) -> None:
    with torch.no_grad():
        made = MADE[name]()
    assert isinstance(made, SimulatedTensor)
    assert made.is_cuda and made.device == CUDA
    assert made.shape == made.held.shape == made.cpu().shape


MIXED: dict[str, Callable[[Tensor], object]] = {
    "add": lambda x: x + HOST,
    "host first": lambda x: HOST + x,
    "in place": lambda x: HOST.clone().mul_(x),
    "host with a scalar of the device": lambda x: HOST + x.sum(),
    "cat": lambda x: torch.cat([x, HOST]),
    "stack of scalars": lambda x: torch.stack([x.sum(), HOST.sum()]),
    "where": lambda x: x.where(HOST > 0, 0),
    "host indexed by the device": lambda x: HOST[x.long() - 1],
    "assigned by a mask": lambda x: x.__setitem__(x > 1, HOST[:2]),
    "linear": lambda x: nn.functional.linear(HOST, torch.ones(2, 3, device="cuda")),
    "module": lambda x: nn.Linear(3, 3).to("cuda")(HOST),
    "einsum": lambda x: torch.einsum("a,a->", x, HOST),
    "aten": lambda x: torch.ops.aten.add.Tensor(x, HOST),
    "generator": lambda x: x.uniform_(generator=torch.Generator()),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_devices_is_refused(name: str) -> None:
    with torch.inference_mode(), pytest.raises(RuntimeError, match="device"):
        MIXED[name](HOST.to("cuda"))


@pytest.mark.parametrize("convert", [Tensor.numpy, np.asarray])
def test_only_a_copy_on_the_host_becomes_an_array(convert: Callable[[Tensor], object]) -> None:
    with pytest.raises(TypeError, match=r"to numpy\. Use Tensor\.cpu"):
        convert(HOST.to("cuda"))
    np.testing.assert_array_equal(HOST.to("cuda").cpu().numpy(), HOST.numpy())


def test_views_share_memory_and_copies_do_not() -> None:
    host = torch.zeros(2, 3)
    on_device = host.to("cuda")
    on_device[:, 1] = 5
    on_device.view(3, 2)[0] += 1
    assert on_device.tolist() == [[1, 6, 0], [0, 5, 0]]
    assert host.sum() == 0
    back = on_device.to("cpu")
    on_device.zero_()
    assert back.sum() == 12
    host[0] = on_device.sum(dim=0) + 2  # an assignment copies across devices
    assert host.tolist() == [[2, 2, 2], [0, 0, 0]]


def test_copies_through_pinned_memory_on_a_stream_arrive() -> None:
    pinned = torch.empty(3, pin_memory=True)
    target = torch.empty(3, device="cuda")
    with torch.cuda.stream(torch.cuda.Stream("cuda")):
        pinned.copy_(HOST)
        target.copy_(pinned, non_blocking=True)
        torch.cuda.Event().record()
    target.record_stream(torch.cuda.current_stream())
    assert target.tolist() == HOST.tolist()


def test_parameters_that_were_one_stay_one_after_a_move() -> None:
    pair = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    pair[1].weight = pair[0].weight
    pair.to("cuda")
    assert pair[1].weight is pair[0].weight and pair[0].weight.is_cuda


def test_reads_by_the_host_are_counted() -> None:
    x = HOST.to("cuda")
    with HostReads.counted() as found:
        x.add(1).mul_(2)
        assert not found
        float(x.sum())
        x[x > 2]
        x.cpu()
    assert sum(found.values()) == 3
