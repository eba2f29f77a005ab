"""The papers and talks in which claims are made."""

ELHAGE = "Elhage et al. 2021, A Mathematical Framework for Transformer Circuits"
OLSSON = "Olsson et al. 2022, In-context Learning and Induction Heads"
POWER = "Power et al. 2022, Grokking"
NANDA = "Nanda et al. 2023, Progress measures for grokking via mechanistic interpretability"
INTERVIEW = "an interview with Neel Nanda on these papers"
