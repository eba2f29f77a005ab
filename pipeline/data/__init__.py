"""Token distributions: what model organisms are trained on, and what inputs are made of."""
