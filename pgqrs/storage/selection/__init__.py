"""Selections of workflows: for lists and counts, and for bulk operations."""
