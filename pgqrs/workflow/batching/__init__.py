"""Workflows whose submissions run in batches."""
