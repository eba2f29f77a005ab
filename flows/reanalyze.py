"""The flow `reanalyze`: run the analyses whose measures have changed since they were computed."""

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows import artifacts
from flows.allowed_code import code_of_trusted_files, refusal
from flows.analyze import analyze
from flows.places import resolve_place, resolve_places
from pipeline.analysis.examination import resolve
from pipeline.analysis.outdated import outdated
from pipeline.analysis.survey import survey
from pipeline.config import Analysis, load_analysis
from pipeline.errors import InputError


@flow(name="reanalyze", persist_result=False)
def reanalyze(analyses: list[str]) -> State:
    """Run those analyses (YAML files or presets) in which a measure has changed.

    A measure has changed if its version, parameters, input or engine differ from those of the rows
    in the store. For new checkpoints, use the deployment `watch`. As in `analyze`, code runs only
    if a trusted file allows it, and addresses may refer to Prefect variables.
    """
    artifacts.tag("ontogeny", "reanalyze")
    try:
        files = [resolve_place(config, "analyses") for config in analyses]
        loaded = {config: resolve_places(load_analysis(config)) for config in files}
    except InputError as error:
        return Failed(message=str(error))
    allowed = code_of_trusted_files()
    if refused := [text for one in loaded.values() if (text := refusal(one, allowed))]:
        return Failed(message=refused[0])
    changed = {config: found for config, one in loaded.items() if (found := _changes(config, one))}
    states = {config: analyze(loaded[config], return_state=True) for config in changed}
    failed = sorted(config for config, state in states.items() if not state.is_completed())
    message = f"{len(changed)} of {len(analyses)} analyses changed, {len(failed)} failed"
    return (Failed if failed else Completed)(message=f"{message}: {failed}" if failed else message)


@task(name="compare", task_run_name="{config}", cache_policy=NO_CACHE)
def _changes(config: str, analysis: Analysis) -> dict[str, str]:
    """Return the measures that differ from the rows in the store, each with the difference."""
    found = outdated(resolve(analysis, survey(analysis)))
    for name, difference in found.items():
        get_run_logger().info("%s: %s", name, difference)
    return found
