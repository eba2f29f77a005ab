
"""A throw-away measure."""
import numpy as np
from pipeline.measures.base import Measure
from pipeline.schema import Variable

class LargestWeight(Measure):
    """The largest weight in absolute value."""
    name = "largest_weight"
    version = 1
    default_input = None
    variables = (Variable("largest", ("step",), "1", "Largest absolute weight."),)

    def compute(self, records, weights, reference):
        return {"largest": np.array(max(float(w.abs().max()) for w in weights.values()))}
