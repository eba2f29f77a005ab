"""What is computed over checkpoints, from what is stored."""
