"""Whether what a pass records of a model is what the model itself says it computes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.engine.changes import run_changed
from pipeline.engine.forward import run
from pipeline.engine.record import HeadChange, Lag, OutputOn, Pass
from pipeline.engine.streams import blocks
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.models.loading import Resident

_LENGTH = 6
