"""Commands that maintain a store: `ontogeny store verify`, `gc` and `trajectories`."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from flows.cli.app import Json, app

store = typer.Typer(
    no_args_is_help=True, help="Verify a store, reclaim space, rewrite its trajectories."
)
app.add_typer(store, name="store")


@store.command()
def verify(
    uri: Annotated[str, typer.Argument(metavar="STORE")],
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Mark damaged rows as missing, so they are recomputed."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare all committed rows and all trajectories with their checksums.

    Exit code 1 if anything is damaged, also after --repair.
    """
    from pipeline.store import Store
    from pipeline.store.verify import verify

    found = verify(Store(uri), repair)
    faults = [{"where": fault.where, "what": fault.what} for fault in found.faults]
    if as_json:
        result = {"rows": found.rows, "faults": faults, "repaired": found.repaired}
        typer.echo(json.dumps(result, indent=1))
    else:
        typer.echo(f"{found.rows} committed rows, {len(faults)} faults")
    for fault in found.faults:
        typer.echo(str(fault), err=True)
    if faults:
        remedy = "run the analysis again" if repair else "run this with --repair, then the analysis"
        typer.echo(f"{uri}: {len(faults)} faults: {remedy}", err=True)
        raise typer.Exit(1)


@store.command()
def gc(
    uri: Annotated[str, typer.Argument(metavar="STORE")],
    older_than: Annotated[
        float, typer.Option(metavar="HOURS", help="Keep objects that are younger.")
    ] = 24.0,
    keep_variants: Annotated[
        bool, typer.Option("--keep-variants", help="Keep rows of other parameters and inputs.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be removed, and remove nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove rows that no reader uses: replaced, unfinished, or of other parameters."""
    from pipeline.store import Store
    from pipeline.store.reclaim import reclaim

    done = reclaim(Store(uri), older_than * 3600, keep_variants, dry_run)
    if as_json:
        typer.echo(json.dumps(asdict(done)))
        return
    verb = "would remove" if dry_run else "removed"
    typer.echo(
        f"{verb} {done.rows} rows and {done.variants} variants: {done.objects} objects, "
        f"{done.bytes / 1e6:.1f} MB"
    )


@store.command()
def trajectories(
    uri: Annotated[str, typer.Argument(metavar="STORE")],
    losses: Annotated[
        bool | None,
        typer.Option("--losses/--no-losses", help="Also variables by sequence and position."),
    ] = None,
) -> None:
    """Rewrite stored variables contiguously along the steps; an analysis does so for small ones."""
    from pipeline.store import Store
    from pipeline.store.lease import owned
    from pipeline.store.trajectories import publish

    with owned(Store(uri)):
        written = publish(Store(uri), losses)
    for group, entry in written.items():
        typer.echo(f"{group}: {', '.join(sorted(entry.arrays))}")
