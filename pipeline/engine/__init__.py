"""The engine: one forward pass of any decoder, and everything that is recorded during it."""
