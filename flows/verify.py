"""The flow `verify`: compare stores with their checksums, for instance every night."""

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows import artifacts
from flows.places import resolve_place
from pipeline.errors import InputError
from pipeline.store import Store
from pipeline.store.store_names import store_name
from pipeline.store.verify import Verified
from pipeline.store.verify import verify as verify_store


@flow(name="verify", persist_result=False)
def verify(stores: list[str], repair: bool = False) -> State:
    """Compare every row and trajectory of some stores with the checksums of their commits.

    stores: addresses, which may refer to Prefect variables. repair: mark damaged rows as missing,
    so that the next analysis computes them again.
    """
    try:
        places = [resolve_place(store, "stores") for store in stores]
    except InputError as error:
        return Failed(message=str(error))
    artifacts.tag("ontogeny", "verify", *map(store_name, places))
    found = {store: _verify(store, repair) for store in places}
    for store, verified in found.items():
        _show_faults(store, verified)
    rows = sum(verified.rows for verified in found.values())
    faults = sum(len(verified.faults) for verified in found.values())
    message = f"stores: {len(stores)}, rows: {rows}, faults: {faults}"
    return (Failed if faults else Completed)(message=message)


def _show_faults(store: str, verified: Verified) -> None:
    table = [{"where": fault.where, "what": fault.what} for fault in verified.faults]
    about = f"{store}: rows: {verified.rows}, faults: {len(table)}"
    artifacts.show_table(artifacts.artifact_key("faults", store), table, about)


@task(name="verify store", task_run_name="{store}", cache_policy=NO_CACHE)
def _verify(store: str, repair: bool) -> Verified:
    return verify_store(Store(store), repair)
