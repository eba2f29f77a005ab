"""Training model organisms, whose mechanisms are known to appear suddenly."""
