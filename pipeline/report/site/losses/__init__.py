"""The page of losses."""
