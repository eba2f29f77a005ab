"""Ontogeny: what formed inside a language model, and when, read from its checkpoints."""
