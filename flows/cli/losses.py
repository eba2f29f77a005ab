"""`ontogeny losses`: what the stored losses of one run, or of several, say."""

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from flows.cli.app import DaskAddress, Json, app
from flows.cli.output import say, say_json
from pipeline.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

Number = TypeVar("Number", int, float)


@app.command()
def losses(
    stores: Annotated[list[str], typer.Argument(metavar="STORE...")],
    group: Annotated[str, typer.Option(help="The group of the losses.")] = "token_loss",
    tokens: Annotated[
        str | None,
        typer.Option(metavar="TOKEN,...", help="Tokens whose loss is shown, such as 10,100,1000."),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE,...", help="Sizes of the models, such as 70e6,160e6, one for each store."
        ),
    ] = None,
    dask_address: DaskAddress = None,
    as_json: Json = False,
) -> None:
    """Print what losses say: loss space, in-context learning, speed of learning, single tokens.

    Several stores are compared token by token, from the smallest model to the biggest; they must
    have the same input. With --json, the answers of each run are there too. See docs/losses.md for
    the definitions, and for more in Python.
    """
    from flows.cli.loss_comparison_lines import comparison_lines
    from flows.cli.loss_lines import loss_lines
    from pipeline.query.dask_client import dask_scheduler
    from pipeline.query.loss_comparison import compare_losses
    from pipeline.query.losses import loss_answers
    from pipeline.store.store_names import store_names

    chosen = _numbers(tokens, int, "--tokens")
    ordered = _numbers(sizes, float, "--sizes")
    answer: dict[str, Any]
    with dask_scheduler(dask_address):
        if len(stores) == 1 and ordered is None:
            answer, lines = loss_answers(stores[0], group, chosen), loss_lines
        else:
            answer, lines = compare_losses(stores, group, ordered, chosen), comparison_lines
        if as_json and len(stores) > 1:
            names = store_names(stores)
            runs = {name: loss_answers(uri, group, chosen) for name, uri in names.items()}
            answer = {"runs": runs, "together": answer}
    if as_json:
        say_json(answer)
        return
    for line in lines(answer):
        say(line)


def _numbers(text: str | None, kind: "Callable[[str], Number]", option: str) -> list[Number] | None:
    """Return the positive numbers of an option that has them separated by commas."""
    if text is None:
        return None
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < float("inf") for number in numbers):
        raise InputError(f"{option} {text!r}: expected positive numbers, separated by commas")
    return numbers
