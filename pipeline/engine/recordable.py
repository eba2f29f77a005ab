"""Whether what a pass records of a model is what the model itself says it computes."""

_LENGTH = 6
