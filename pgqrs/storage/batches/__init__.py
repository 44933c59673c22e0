"""Batches: submissions that one run executes together."""
