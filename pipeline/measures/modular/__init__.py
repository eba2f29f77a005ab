"""Modular arithmetic: the table of all pairs, its waves, and a pass made for it."""
