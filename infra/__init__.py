"""Where Ontogeny runs: the files that start it on machines, on Slurm and on Kubernetes. No science.

What ends in `.j2` is a template that `flows.submit` fills in.
"""
