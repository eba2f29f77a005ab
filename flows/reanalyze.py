"""The flow for when a measure has changed: what it changes is computed again, the rest is kept."""

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.analyze import analyze
from pipeline.analysis.outdated import outdated
from pipeline.analysis.plan import resolve
from pipeline.analysis.survey import survey
from pipeline.config import Analysis, load_analysis


@flow(name="reanalyze", persist_result=False)
def reanalyze(analyses: list[str]) -> State:
    """Run those analyses (YAML files, or presets) of which a measure is not what it was.

    That is: its version, parameters, input or engine is another than that of the rows in the store.
    New checkpoints alone are no reason; see the deployment `watch`.
    """
    again = {config: load_analysis(config) for config in analyses}
    changed = {config: found for config, one in again.items() if (found := _changed(config, one))}
    states = {config: analyze(again[config], return_state=True) for config in changed}
    failed = sorted(config for config, state in states.items() if not state.is_completed())
    said = f"{len(changed)} of {len(analyses)} analyses changed, {len(failed)} failed"
    return (Failed if failed else Completed)(message=f"{said}: {failed}" if failed else said)


@task(name="compare", task_run_name="{config}", cache_policy=NO_CACHE)
def _changed(config: str, analysis: Analysis) -> dict[str, str]:
    """Which measures differ from the rows in the store, and in what."""
    found = outdated(resolve(analysis, survey(analysis)))
    for name, difference in found.items():
        get_run_logger().info("%s: %s", name, difference)
    return found
