"""The operations outside of runs, through the store's own connections or in a caller's transaction."""
