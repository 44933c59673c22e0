"""Submissions with a unique value, which one workflow of a name holds at a time."""
