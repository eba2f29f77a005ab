"""The clients of experiment trackers, behind one interface.

Each is its tracker's own client, imported when it is used. Where it sends to and as whom follows
from its own environment variables and files.
"""

import hashlib
import time
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

Values = Mapping[str, float]


@runtime_checkable
class Client(Protocol):
    """A run of a tracker that is being written. run: what identifies it when it is continued."""

    run: str

    def log(self, step: int, values: Values) -> None:
        """Send numbers of one checkpoint."""
        ...

    def findings(self, step: int, sentences: list[str]) -> None:
        """Send the findings, which replace those of before. step: the last one."""
        ...

    def close(self) -> None:
        """Wait until all is sent."""
        ...


class TensorBoard:
    """Event files in a folder. Each session adds one; TensorBoard shows them as one run."""

    def __init__(self, place: str, store: str, run: str | None) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.run = place
        self._writer = EventFileWriter(place)

    def log(self, step: int, values: Values) -> None:
        """Write scalars with the tags of the store."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore

        # As torch's SummaryWriter does: more readers know this form than that of newer plugins.
        each = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(step, Summary(value=each))

    def findings(self, step: int, sentences: list[str]) -> None:
        """Write the findings as a text, a Markdown list."""
        from tensorboard.plugins.text.summary import text_pb

        self._add(step, text_pb("findings", _markdown(sentences)))

    def close(self) -> None:
        """Flush the file."""
        self._writer.close()

    def _add(self, step: int, summary: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore

        event = Event(wall_time=time.time(), step=step)
        event.summary.ParseFromString(summary.SerializeToString())
        self._writer.add_event(event)


class WandB:
    """A run of W&B, or of its offline mode (WANDB_MODE=offline)."""

    def __init__(self, place: str, store: str, run: str | None) -> None:
        import wandb

        entity, _, project = place.rpartition("/")
        self.run = run or _identifier(place, store)
        self._run = wandb.init(
            project=project,
            entity=entity or None,
            name=_name(store),
            id=self.run,
            resume="allow",
            reinit="create_new",  # and leave alone a run that the caller has open in this process
            settings=wandb.Settings(silent=True, console="off"),
        )
        # W&B's own step only grows; a checkpoint may be computed after later ones.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Values) -> None:
        """Log numbers over the metric `step`."""
        self._run.log({"step": step, **values})

    def findings(self, step: int, sentences: list[str]) -> None:
        """Set the run's summary `findings`."""
        self._run.summary["findings"] = _markdown(sentences)

    def close(self) -> None:
        """Finish this session of the run."""
        self._run.finish()


class MLflow:
    """A run of MLflow in an experiment, which is created if it is absent."""

    def __init__(self, place: str, store: str, run: str | None) -> None:
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        self._client = MlflowClient()
        self.run = run or self._created(place, _name(store))

    def log(self, step: int, values: Values) -> None:
        """Log metrics, with the step."""
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self.run, metrics)

    def findings(self, step: int, sentences: list[str]) -> None:
        """Write the artifact findings.md."""
        self._client.log_text(self.run, _markdown(sentences), "findings.md")

    def close(self) -> None:
        """Mark the run as finished; it may be continued."""
        self._client.set_terminated(self.run)

    def _created(self, place: str, name: str) -> str:
        found = self._client.get_experiment_by_name(place)
        experiment = found.experiment_id if found else self._client.create_experiment(place)
        return str(self._client.create_run(experiment, run_name=name).info.run_id)


class Trackio:
    """A run of trackio, in its local database (TRACKIO_DIR)."""

    def __init__(self, place: str, store: str, run: str | None) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        self.run = run or f"{_name(store)}-{_identifier(place, store)[:6]}"
        self._run = trackio.init(
            project=place, name=self.run, resume="allow", embed=False,
            auto_log_cpu=False, auto_log_gpu=False,
        )  # fmt: skip

    def log(self, step: int, values: Values) -> None:
        """Log numbers with the step."""
        self._run.log(dict(values), step=step)

    def findings(self, step: int, sentences: list[str]) -> None:
        """Log the findings as a text."""
        import trackio  # pyright: ignore[reportMissingImports]

        self._run.log({"findings": trackio.Markdown(_markdown(sentences))}, step=step)

    def close(self) -> None:
        """Finish this session of the run."""
        self._run.finish()


CLIENTS = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow, "trackio": Trackio}


def _markdown(sentences: list[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _name(store: str) -> str:
    return store.rstrip("/").rpartition("/")[2].removesuffix(".zarr")


def _identifier(place: str, store: str) -> str:
    return hashlib.sha256(f"{place}\n{store}".encode()).hexdigest()[:16]
