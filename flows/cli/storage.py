"""Commands that look after a store: `ontogeny store verify | gc | trajectories | export`."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from flows.cli.app import Json, app

store = typer.Typer(
    no_args_is_help=True, help="Verify a store, reclaim its space, rewrite or export it."
)
app.add_typer(store, name="store")


@store.command()
def verify(
    uri: Annotated[str, typer.Argument(metavar="STORE")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Have the next analysis compute again what is damaged.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare every committed row, and all trajectories, with the checksums in their markers.

    Exit code 1 where something is damaged, repaired or not.
    """
    from pipeline.store import Store
    from pipeline.store.verify import verify

    found = verify(Store(uri), repair)
    faults = [{"where": fault.where, "what": fault.what} for fault in found.faults]
    if as_json:
        told = {"rows": found.rows, "faults": faults, "repaired": found.repaired}
        typer.echo(json.dumps(told, indent=1))
    else:
        typer.echo(f"{found.rows} committed rows, {len(faults)} faults")
    for fault in found.faults:
        typer.echo(str(fault), err=True)
    if faults:
        what = "run the analysis again" if repair else "run this with --repair, then the analysis"
        typer.echo(f"{uri}: {len(faults)} faults: {what}", err=True)
        raise typer.Exit(1)


@store.command()
def gc(
    uri: Annotated[str, typer.Argument(metavar="STORE")],
    older_than: Annotated[float, typer.Option(metavar="HOURS", help="Leave younger ones.")] = 24.0,
    keep_variants: Annotated[
        bool, typer.Option("--keep-variants", help="Keep rows of other parameters and inputs.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what no reader sees: recomputed and unfinished rows, and rows of other parameters."""
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
        typer.Option("--losses/--no-losses", help="Also what has a sequence and a position."),
    ] = None,
) -> None:
    """Rewrite the numbers contiguous along the steps; an analysis does so for the small ones."""
    from pipeline.store import Store
    from pipeline.store.lease import owned
    from pipeline.store.trajectories import publish

    with owned(Store(uri)):
        written = publish(Store(uri), losses)
    for group, entry in written.items():
        typer.echo(f"{group}: {', '.join(sorted(entry.arrays))}")


@store.command()
def export(
    uri: Annotated[str, typer.Argument(metavar="STORE")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A path or s3://bucket/prefix.")],
    format: Annotated[
        str, typer.Option(help="zarr (plain Zarr v3), or netcdf (one file, on a disk).")
    ] = "zarr",
    as_json: Json = False,
) -> None:
    """Copy all that a store shows into plain Zarr or netCDF, which any program opens."""
    from pipeline.query.export import export

    def progress(group: str, index: int, count: int, size: int) -> None:
        if not as_json:
            typer.echo(f"{group} ({index + 1} of {count}, {size / 1e6:.1f} MB)", err=True)

    done = export(uri, target, format, progress)  # pyright: ignore[reportArgumentType]
    if as_json:
        typer.echo(json.dumps(asdict(done)))
        return
    typer.echo(
        f"{done.target}: {done.groups} groups with {done.variables} variables, "
        f"{done.bytes / 1e6:.1f} MB of numbers"
    )
