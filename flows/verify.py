"""The flow that reads every stored number again: for a schedule at night."""

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from pipeline.store import Store
from pipeline.store.verify import Verified
from pipeline.store.verify import verify as verify_store


@flow(name="verify", persist_result=False)
def verify(stores: list[str], repair: bool = False) -> State:
    """Compare every row and trajectory of some stores with the checksums of their commits.

    repair: have the next analysis compute again what is damaged.
    """
    found = {store: _verify(store, repair) for store in stores}
    faults = [
        {"store": store, "where": fault.where, "what": fault.what}
        for store, verified in found.items()
        for fault in verified.faults
    ]
    rows = sum(verified.rows for verified in found.values())
    said = f"stores: {len(stores)}, rows: {rows}, faults: {len(faults)}"
    create_table_artifact(faults, key="faults", description=said)
    return (Failed if faults else Completed)(message=said)


@task(name="verify store", task_run_name="{store}", cache_policy=NO_CACHE)
def _verify(store: str, repair: bool) -> Verified:
    return verify_store(Store(store), repair)
