"""Rewinds: a workflow goes back to the time before one of its steps, and its later steps are set aside."""
