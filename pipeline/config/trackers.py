"""The experiment trackers that an analysis names in `log_to`."""

from importlib.util import find_spec

from pipeline.config.faults import Strict
from pipeline.config.places import Place

# The distribution of each client; its module has the name of the field.
DISTRIBUTIONS = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow-skinny",
    "trackio": "trackio",
}


class LogTo(Strict):
    """Experiment trackers that receive scalars and findings after an analysis; none by default.

    tensorboard: a folder of event files. wandb: a project, or `entity/project`. mlflow: an
    experiment. trackio: a project. Servers and credentials are those of each client's own
    environment variables and files, such as WANDB_API_KEY, WANDB_MODE and MLFLOW_TRACKING_URI.
    """

    tensorboard: Place | None = None
    wandb: Place | None = None
    mlflow: Place | None = None
    trackio: Place | None = None

    def places(self) -> dict[str, str]:
        """Return the trackers that are named, with the place that each sends to."""
        return {name: place for name, place in self.model_dump().items() if place is not None}

    def missing(self) -> list[str]:
        """Return a sentence about each client that is not installed."""
        return [
            f"log_to: {name}: its client is not installed here: `pip install {DISTRIBUTIONS[name]}`"
            for name in self.places()
            if find_spec(name) is None
        ]
