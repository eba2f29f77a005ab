"""Draft an analysis of a run, for `ontogeny init`: see `write.draft_analysis`."""
