"""What flows between a checkpoint and a stored row: orchestration, and no arithmetic."""
