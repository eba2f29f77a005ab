"""Commands that look after a store: `ontogeny store verify | gc | upgrade | export | ...`."""

from dataclasses import asdict
from typing import Annotated

import typer

from flows.cli.app import Json, app
from flows.cli.output import say, say_json

store = typer.Typer(no_args_is_help=True, help="Verify, upgrade, unlock, shrink or export a store.")
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
    """Compare all that a store holds with the checksums that it was written with.

    Exit code 1 if anything is damaged, also after --repair.
    """
    from pipeline.store import Store
    from pipeline.store.verify import verify

    found = verify(Store(uri), repair)
    faults = [{"where": fault.where, "what": fault.what} for fault in found.faults]
    if as_json:
        told = {
            "rows": found.rows,
            "faults": faults,
            "repaired": found.repaired,
            "foreign": found.foreign,
        }
        say_json(told)
    else:
        say(f"{found.rows} committed rows, {len(faults)} faults")
    for fault in found.faults:
        say(str(fault), err=True)
    for key in found.foreign:
        say(f"{key}: is no file of a store, and is ignored", err=True)
    if faults:
        remedy = "run the analysis again" if repair else "run this with --repair, then the analysis"
        say(f"{uri}: {len(faults)} faults: {remedy}", err=True)
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
        say_json(asdict(done), indent=None)
        return
    verb = "would remove" if dry_run else "removed"
    say(f"{verb} {done.rows} rows: {done.objects} objects, {done.bytes / 1e6:.1f} MB")


@store.command()
def trajectories(uri: Annotated[str, typer.Argument(metavar="STORE")]) -> None:
    """Write the numbers along the steps, as an analysis does at its end."""
    from pipeline.store import Store
    from pipeline.store.lease import owned
    from pipeline.store.reclaim import seal
    from pipeline.store.trajectories import publish

    with owned(Store(uri), waiting=_say):
        seal(Store(uri))
        written = publish(Store(uri)).published
    for group, entry in written.items():
        say(f"{group}: {', '.join(sorted(entry.arrays))}")


@store.command()
def export(
    uri: Annotated[str, typer.Argument(metavar="STORE")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A path or s3://bucket/prefix.")],
    format: Annotated[
        str, typer.Option(help="zarr (plain Zarr v3), or netcdf (one file, on a disk).")
    ] = "zarr",
    as_json: Json = False,
) -> None:
    """Copy a store to plain Zarr or netCDF, which opens without ontogeny."""
    from flows.console import show_progress
    from pipeline.query.export import export

    with show_progress(f"export {uri}") as progress:
        done = export(uri, target, format, progress)
    if as_json:
        say_json(asdict(done), indent=None)
        return
    say(
        f"{done.target}: {done.groups} groups with {done.variables} variables, "
        f"{done.bytes / 1e6:.1f} MB of numbers"
    )
    for sentence in done.left_out:
        say(sentence, err=True)


@store.command()
def upgrade(uri: Annotated[str, typer.Argument(metavar="STORE")], as_json: Json = False) -> None:
    """Move the rows of a store that an earlier version made to the present layout.

    Nothing is computed. Nothing else may write to the store meanwhile. Exit code 1 where rows are
    damaged: they are left out, and the next analysis computes them.
    """
    from flows.console import show_progress
    from pipeline.store import Store
    from pipeline.store.upgrade import upgrade

    with show_progress(f"upgrade {uri}") as progress:
        done = upgrade(Store(uri), progress)
    if as_json:
        say_json(asdict(done))
    else:
        say(f"{done.rows} rows have the present layout")
    for where, why in done.left_out.items():
        say(f"{where}: is left out, it is damaged: {why}", err=True)
    if done.left_out:
        raise typer.Exit(1)


@store.command()
def unlock(uri: Annotated[str, typer.Argument(metavar="STORE")]) -> None:
    """Let the next analysis have a store at once, whatever its lease says.

    That is safe also while another analysis runs: at worst both compute the same.
    """
    from pipeline.store import Store
    from pipeline.store.lease import unlock

    owner = unlock(Store(uri))
    say(f"{uri}: free{f'; it was owned by {owner}' if owner else ' already'}")


def _say(what: str) -> None:
    say(what, err=True)
