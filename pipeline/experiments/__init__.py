"""Claims of the field, tested by training and analysing small models.

An experiment is one short module: its claims, the runs that it needs, and the effect that decides
each claim by a rule. `claims` judges, `runs` trains and analyses, `settings` has the training runs
that experiments share, and `registry` lists the experiments.
"""
