"""Computations over the checkpoints of a run, from stored arrays."""
