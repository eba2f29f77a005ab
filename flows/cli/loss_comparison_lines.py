"""Lines that say what the losses of several runs say together."""

from collections.abc import Iterator, Mapping
from typing import Any

from flows.cli.loss_lines import percent, span, unknown

Answer = Mapping[str, Any]


def comparison_lines(found: Answer) -> Iterator[str]:
    """Yield the lines of answers, as of `pipeline.query.loss_comparison.compare_losses`."""
    yield f"{len(found['runs'])} runs, compared on the same tokens of {found['group']}."
    for title, part in (
        ("When each run changed suddenly", _changes(found["changes"])),
        ("Loss space: one set of axes for all runs", _space(found["space"])),
        ("Small less big: by how much more the small model loses", _positions(found)),
        ("In-context score: how alike are the runs?", _in_context(found["in_context"])),
        ("Speed of learning before and after the jump", _derivative(found)),
        ("Learning curves of single tokens", _tokens(found["tokens"])),
    ):
        yield ""
        yield title
        yield from (f"  {line}" for line in part)


def _changes(changes: Answer) -> Iterator[str]:
    for run, change in changes.items():
        told = [
            f"{name} by {change[key]['amplitude']:+.2f} over {span(change[key])}"
            for key, name in (
                ("induction", _head(change["induction"])),
                ("mean", "mean loss"),
                ("in_context_score", "in-context score"),
            )
            if change[key] is not None
        ]
        yield f"{run}: {'; '.join(told) or 'nothing that is certain'}."


def _head(induction: Answer | None) -> str:
    return "" if induction is None else f"induction (L{induction['layer']}H{induction['head']})"


def _space(space: Answer) -> Iterator[str]:
    if line := unknown(space):
        yield line
        return
    shares = ", ".join(percent(share) for share in space["shares"])
    yield f"Components 1 to {len(space['shares'])} explain {shares} of the variance."
    for run, way in space["trajectories"].items():
        start, end = (_point(way["scores"][place]) for place in (0, -1))
        yield (
            f"{run}: from {start} at step {way['steps'][0]:,} to {end} at step "
            f"{way['steps'][-1]:,}, {space['start_to_end'][run]:.2f} nats away."
        )
    pairs = [
        value for row, values in enumerate(space["between_ends"]) for value in values[row + 1 :]
    ]
    apart = f"{min(pairs):.2f} to {max(pairs):.2f}" if len(pairs) > 1 else f"{pairs[0]:.2f}"
    yield f"Two runs end {apart} nats apart (root mean square over tokens)."


def _point(scores: list[float]) -> str:
    return "(" + ", ".join(f"{score:+.2f}" for score in scores) + ")"


def _positions(found: Answer) -> Iterator[str]:
    positions = found["positions"]
    if line := unknown(positions):
        yield line
        return
    if found["sizes"] is None:
        yield "Sizes are not given (--sizes): the first store is taken for small, the last for big."
    small, big = (", ".join(positions[name]) for name in ("small", "big"))
    yield f"{small} less {big}, at step {positions['step']:,}:"
    for one in positions["at"]:
        error = one["standard_error"]
        sure = "" if error is None else f" (standard error over sequences {error:.2g})"
        yield f"around token {one['token']:,}: {one['difference']:+.3f} nats{sure}"
    if positions["beyond"]:
        yield f"Beyond the end of the sequences: {', '.join(map(str, positions['beyond']))}."


def _in_context(context: Answer) -> Iterator[str]:
    if line := unknown(context):
        yield line
        return
    yield f"Loss at token {context['late_token']} less that at token {context['early_token']}:"
    for one in context["runs"]:
        since = (
            "no jump found"
            if one["since"] is None
            else f"mean since its jump (step {one['since']:,.0f}) {one['mean_since']:.3f}"
            + ("" if one["deviation_since"] is None else f" ± {one['deviation_since']:.3f}")
            + f" over {one['checkpoints_since']} checkpoints"
        )
        error = "" if one["standard_error"] is None else f" ({one['standard_error']:.2g})"
        yield f"{one['run']}: {one['score']:.3f}{error} nats at step {one['step']:,}; {since}"
    yield f"Spread (standard deviation over runs): {context['spread']:.3f} nats at the end" + (
        "." if context["spread_since"] is None
        else f", {context['spread_since']:.3f} since the jumps."
    )  # fmt: skip
    p = context["equal_p"]
    yield (
        "Too few sequences, or runs alike: equal scores cannot be tested."
        if p is None
        else f"Equal scores at the end: p = {p:.2g}. "
        + ("They differ." if p <= 0.05 else "A difference cannot be told from chance.")
    )


def _derivative(found: Answer) -> Iterator[str]:
    slopes = found["derivative"]
    if line := unknown(slopes):
        yield line
        return
    series = {"in_context_score": "in-context score", "mean": "mean loss"}[slopes["series"]]
    first, last = slopes["between"]
    yield (
        f"Mean derivative, in nats for each e-fold of {slopes['axis']} (standard error), before "
        f"the first jump of the {series} (step {first:,.0f}) and after the last (step {last:,.0f}):"
    )
    for run, sides in slopes["runs"].items():
        told = ", ".join(
            f"{one['derivative']:.3f} ({one['standard_error']:.2g}) {side}"
            for side, one in sides.items()
        )
        yield f"{run}: {told}"
    if slopes["difference"]["before"] is None:
        yield (
            "Small against large: sizes are not given (--sizes)."
            if found["sizes"] is None
            else "Small against large: all models have the same size."
        )
        return
    for side, difference in slopes["difference"].items():
        yield (
            f"Largest less smallest {side}: {difference:+.3f} "
            f"({slopes['difference_error'][side]:.2g}); rank correlation with size "
            f"{slopes['kendall_tau'][side]:+.2f} (p = {slopes['kendall_p'][side]:.2g})."
        )


def _tokens(tokens: Answer) -> Iterator[str]:
    if line := unknown(tokens):
        yield line
        return
    if tokens["final_surprisal"] is not None:
        yield (
            f"Between runs, the final loss of a token varies by {tokens['final_surprisal']:.2f} "
            "nats (standard deviation over runs, median token)."
        )
    count = f"{tokens['with_ages']:,} of {tokens['tokens']:,} tokens have an age in every run"
    yield (
        f"{count}."
        if tokens["log_age"] is None
        else f"{count}; where at least two runs have one ({tokens['with_two_ages']:,} tokens), "
        f"ages vary by a factor of {10 ** tokens['log_age']:.2f} (median token)."
    )
