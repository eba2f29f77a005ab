"""Models: the small organism, and loading any decoder once and its weights per checkpoint."""
