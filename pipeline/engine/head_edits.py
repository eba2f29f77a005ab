"""Changes to the heads of a batch whose rows are copies of sequences, each changed differently."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pipeline.engine.partial_reads import Part, Reads
from pipeline.engine.record import Kept

Heads = Float[Tensor, "row position head d_value"]

# Of one head: the same everywhere (a number or a vector), or at every place its own.
Outputs = Float[Tensor, ""] | Float[Tensor, " d_value"] | Float[Tensor, "sequence position d_value"]


@dataclass(frozen=True)
class Edit:
    """The replaced head outputs of a batch that holds each sequence in consecutive rows.

    copies: for each of these rows, the outputs that replace those of heads (layer, head), as one
    vector, as one per token [sequence position d_value], or as a part of the head's own. kept: of
    what all copies use that of the first.
    """

    copies: Sequence[Mapping[tuple[int, int], Outputs | Part]]
    kept: frozenset[Kept] = frozenset()

    @property
    def takes_parts(self) -> bool:
        """True if some head keeps a part of its own output."""
        return any(isinstance(given, Part) for copy in self.copies for given in copy.values())

    def applied(self, layer: int, out: Heads, rows: slice, reads: Reads | None = None) -> Heads:
        """Return a layer's outputs with those of the changed heads replaced.

        reads: needed where heads keep a part of their output.
        """
        sequences = slice(rows.start // len(self.copies), rows.stop // len(self.copies))
        # A copy, because the output may be a view of a tensor that the kernel returned.
        changed = self._by_copy(out).clone()
        for i, copy in enumerate(self.copies):
            for (at, head), value in copy.items():
                if at != layer:
                    continue
                if isinstance(value, Part):
                    assert reads is not None
                    read = self._by_copy(reads.through(value.rule, head))[:, i]
                    given = read + value.rest.to(read)
                else:
                    given = value[sequences] if value.ndim == 3 else value
                changed[:, i, :, head] = given.to(out)
        return changed.flatten(0, 1)

    def with_kept(self, kind: Kept, x: Float[Tensor, " row *rest"]) -> Float[Tensor, " row *rest"]:
        """Return a layer's queries, keys or values; if kept, of each sequence's first copy."""
        if kind not in self.kept:
            return x
        return self._by_copy(x)[:, :1].expand_as(self._by_copy(x)).flatten(0, 1)

    def _by_copy(self, x: Float[Tensor, " row *rest"]) -> Float[Tensor, "sequence copy *rest"]:
        return x.unflatten(0, (-1, len(self.copies)))
