"""`ontogeny losses`: what the stored losses of a run say."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.app import Json, app
from flows.cli.output import say, say_json

if TYPE_CHECKING:
    from collections.abc import Iterator


@app.command()
def losses(
    store: str,
    group: Annotated[str, typer.Option(help="The group of the losses.")] = "token_loss",
    as_json: Json = False,
) -> None:
    """Print what the losses of a run say: loss space, in-context score, derivative, tokens.

    See docs/losses.md for the definitions, and for more in Python.
    """
    from pipeline.query.losses import loss_answers

    found = loss_answers(store, group)
    if as_json:
        say_json(found)
        return
    for line in _loss_lines(found):
        say(line)


def _loss_lines(found: "dict[str, Any]") -> "Iterator[str]":
    space, context, steep, tokens = (
        found[key] for key in ("space", "in_context", "derivative", "tokens")
    )
    shares = ", ".join(f"{share:.1%}" for share in space["shares"])
    yield f"Loss space: the first components explain {shares} of the variance over checkpoints."
    verdicts = ", ".join(
        f"{verdict} for {of}" for of, verdict in space["first_is_overall_loss"].items()
    )
    yield f'"The first component is overall loss": {verdicts}.'
    where, p = f"step {space['corner_candidate']:,}", f"p = {space['corner_p']:.2g}"
    yield (
        f"The trajectory turns a corner at {where} ({p} under random walks)."
        if space["corner"] is not None
        else f"No corner beyond those of random walks (sharpest at {where}, {p})."
    )
    yield (
        f"In-context score at step {context['step']:,} (loss at token {context['late_token']} "
        f"minus token {context['early_token']}): {context['score']:.3f} nats, standard error "
        f"{context['standard_error']:.3f}."
    )
    yield (
        f"Steepest at step {steep['step']:,}: {steep['derivative']:.2f} nats per e-fold of "
        f"{steep['axis']} (90% interval {steep['low']:.2f} to {steep['high']:.2f}, bandwidth "
        f"{steep['bandwidth']:g})."
    )
    age = (
        "" if tokens["median_age"] is None else f", the median at step {tokens['median_age']:,.0f}"
    )
    yield f"{tokens['with_age']:,} of {tokens['tokens']:,} tokens have an age of acquisition{age}."
    if tokens["forgotten_share"] is not None:
        yield (
            f"{tokens['forgotten_share']:.0%} of the {tokens['learned']:,} tokens that were "
            "learned were forgotten at least once."
        )
    if space["left_out"]:
        yield f"Left out, as not finite: {', '.join(map(str, space['left_out']))}."
