"""Modular arithmetic: the table of all pairs, and Fourier analysis of logits and neurons."""
