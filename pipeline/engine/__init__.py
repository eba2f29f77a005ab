"""The engine: one forward pass of any decoder, and all that is read off it while it runs."""
