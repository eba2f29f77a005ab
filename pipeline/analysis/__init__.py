"""Running an analysis: survey, plan, compute one checkpoint after another, publish."""
