"""Find checkpoints and shards with the same bytes, by their metadata."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import islice

from pipeline.auditing.evidence import Evidence
from pipeline.auditing.faults import Fault

_SHOWN = 5  # steps that a sentence names


def copies(evidence: Sequence[Evidence]) -> list[Fault]:
    """Return the faults "byte-identical", "final-weights" and "foreign-shard".

    If several steps have the same bytes, the metadata do not show which one they belong to: all are
    faulty, unless the last step is among them, which is then taken to be right. Step 1 may equal
    step 0, because a learning rate that warms up from zero does not change the weights.
    """
    whole = [one for one in evidence if one.parts and None not in one.identity]
    same = _same_steps((one.step, one.identity) for one in whole)
    last = evidence[-1].step if evidence else -1
    faults = [fault for steps in same for fault in _of_whole(steps, last)]
    return faults + _of_shards(whole, last)


def _of_whole(steps: Sequence[int], last: int) -> Iterator[Fault]:
    for step in steps:
        others = _listed(other for other in steps if other != step)
        if last not in steps:
            yield Fault(
                step, "byte-identical", f"the same bytes as {others}: at most one of them is right"
            )
        elif step != last:
            yield Fault(step, "final-weights", f"the same bytes as the last step, {last}")


def _of_shards(evidence: Sequence[Evidence], last: int) -> list[Fault]:
    """Return the faults of shards that are equal at steps whose other shards differ."""
    faults = []
    sharded = [one for one in evidence if len(one.parts) > 1]
    identities = {one.step: one.identity for one in sharded}
    for name in sorted({part.name for one in sharded for part in one.parts}):
        parts = (
            (one.step, part.identity) for one in sharded for part in one.parts if part.name == name
        )
        for steps in _same_steps(parts):
            # Equal at most steps: frozen weights, such as an embedding that is not trained.
            frozen = len(steps) > len(sharded) / 2
            if frozen or len({identities[step] for step in steps}) == 1:
                continue
            wrong = [step for step in steps if step != last]
            for step in wrong:
                others = _listed(other for other in steps if other != step)
                faults.append(
                    Fault(step, "foreign-shard", f"{name} has the same bytes as at {others}")
                )
    return faults


def _same_steps(identities: Iterable[tuple[int, Hashable]]) -> list[list[int]]:
    """Return groups of two or more steps with the same identity, except steps 0 and 1 alone."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for step, identity in identities:
        groups[identity].append(step)
    return [steps for steps in groups.values() if len(steps) > 1 and steps != [0, 1]]


def _listed(steps: Iterable[int]) -> str:
    first = list(islice(steps, _SHOWN + 1))  # of a thousand equal ones, each lists the others
    shown = ", ".join(map(str, first[:_SHOWN]))
    more = ", ..." if len(first) > _SHOWN else ""
    return f"step {shown}" if len(first) == 1 else f"steps {shown}{more}"
