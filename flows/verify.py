"""The flow `verify`: compare stores with their checksums, for instance every night."""

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

    repair: mark damaged rows as missing, so that the next analysis computes them again.
    """
    found = {store: _verify(store, repair) for store in stores}
    faults = [
        {"store": store, "where": fault.where, "what": fault.what}
        for store, verified in found.items()
        for fault in verified.faults
    ]
    rows = sum(verified.rows for verified in found.values())
    message = f"stores: {len(stores)}, rows: {rows}, faults: {len(faults)}"
    create_table_artifact(faults, key="faults", description=message)
    return (Failed if faults else Completed)(message=message)


@task(name="verify store", task_run_name="{store}", cache_policy=NO_CACHE)
def _verify(store: str, repair: bool) -> Verified:
    return verify_store(Store(store), repair)
