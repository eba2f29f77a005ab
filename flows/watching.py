"""A growing run, analysed on a schedule: new checkpoints are computed, the rest is kept."""

from datetime import timedelta

from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType

from flows.analyze import analyze
from flows.showing import store_name
from pipeline.config import Analysis
from pipeline.errors import InputError


def watch_run(analysis: Analysis, seconds: float) -> None:
    """Serve a scheduled deployment of the flow from this process until it is interrupted.

    A run that is still under way when the next is due lets it pass.
    """
    if not PREFECT_API_URL.value():
        raise InputError(
            "a schedule needs a Prefect server that stands: start one with `ontogeny ui`, or name "
            "yours in PREFECT_API_URL"
        )
    name = store_name(analysis.store)
    analyze.serve(
        name=f"watch {name}",
        interval=timedelta(seconds=seconds),
        parameters={"analysis": analysis.model_dump(mode="json", exclude_unset=True)},
        tags=["ontogeny", "watch", name],
        global_limit=ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
        ),
        print_starting_message=False,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
