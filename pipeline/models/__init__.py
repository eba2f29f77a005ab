"""Models: the small organism, and any decoder, built once and given the weights of checkpoints."""
