"""The rewinds of workflows, for applications."""
