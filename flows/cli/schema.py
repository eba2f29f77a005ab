"""`ontogeny schema`: the JSON schema of the YAML files, for editors."""

from typing import Annotated

import typer

from flows.cli.app import app
from flows.cli.output import say_json
from pipeline.errors import InputError, suggestion

KINDS = ("analysis", "training")


@app.command()
def schema(
    kind: Annotated[
        str, typer.Argument(help="What the file describes: analysis or training.")
    ] = "analysis",
) -> None:
    """Print the JSON schema of an analysis or a training file, with which editors check it."""
    if kind not in KINDS:
        raise InputError(f"schema: there is no file of kind {kind!r}; {suggestion(kind, KINDS)}")
    from pipeline.analysis.file_schemas import analysis_schema, training_schema

    say_json(analysis_schema() if kind == "analysis" else training_schema())
