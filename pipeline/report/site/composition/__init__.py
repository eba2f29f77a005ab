"""The page of composition, and the partners of heads."""
