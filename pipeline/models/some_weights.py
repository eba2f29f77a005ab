"""Read some of a checkpoint's tensors, and describe the others, from safetensors files."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.checkpoints.floats import dtype_name
from pipeline.checkpoints.headers import Header
from pipeline.checkpoints.tensor_ranges import RangedFile, header_of, read_spans
from pipeline.checkpoints.wrappers import without_wrappers
from pipeline.models.weights import Weights

# Returns the names of the tensors to read, from all tensors on the meta device; None for all.
Choose = Callable[[Weights], Collection[str] | None]


@dataclass(frozen=True)
class SomeWeights:
    """Some tensors of a checkpoint.

    weights: all tensors by name; those that were not read are on the meta device, without data.
    contents: the bytes of those that were read.
    """

    weights: Mapping[str, Tensor]
    contents: Mapping[str, bytearray]
    _sums: dict[str, str] = field(default_factory=dict, init=False)

    def digest(self, names: Collection[str]) -> str:
        """Return the sha256 of some of the tensors: of their names, dtypes, shapes and bytes."""
        shown = {name: (one.dtype, list(one.shape)) for name, one in self.weights.items()}
        lines = [f"{name} {shown[name]} {self._sha256(name)}" for name in sorted(names)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _sha256(self, name: str) -> str:
        if name not in self._sums:  # several measures read the same tensors
            self._sums[name] = hashlib.sha256(self.contents[name]).hexdigest()
        return self._sums[name]


def read_some(files: Sequence[RangedFile], source: str, choose: Choose) -> SomeWeights | None:
    """Return the tensors of a checkpoint that `choose` returns, and describe the others.

    None if it returns None, or if a dtype is not one that torch has. Names are those of
    `weights.read_weights`, and so are the tensors' bytes. Raises CheckpointError, naming the file,
    for one that is no safetensors file or not as long as its header says.
    """
    headers = [header_of(file) for file in files]
    described = describe(headers, source)
    chosen = None if described is None else choose(described)
    if described is None or chosen is None:
        return None
    weights, contents = dict(described), {}
    plain = without_wrappers([name for header in headers for name in header.tensors], source)
    for file, header in zip(files, headers, strict=True):
        spans = {name: span for name, span in header.spans.items() if plain[name] in chosen}
        for name, content in read_spans(file, spans).items():
            contents[plain[name]] = content
            weights[plain[name]] = _tensor(content, described[plain[name]])
    return SomeWeights(weights, contents)


def describe(headers: Sequence[Header], source: str) -> dict[str, Tensor] | None:
    """Return all tensors on the meta device by name; None if torch lacks a dtype."""
    facts = {name: facts for header in headers for name, facts in header.tensors.items()}
    plain = without_wrappers(facts, source)
    found: dict[str, Tensor] = {}
    for name, of in facts.items():
        dtype = getattr(torch, dtype_name(of.dtype), None)
        if not isinstance(dtype, torch.dtype):
            return None
        found[plain[name]] = torch.empty(of.shape, dtype=dtype, device="meta")
    return found


def _tensor(content: bytearray, like: Tensor) -> Tensor:
    if not content:
        return torch.empty(like.shape, dtype=like.dtype)
    return torch.frombuffer(content, dtype=like.dtype).reshape(like.shape)
