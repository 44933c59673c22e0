"""Lists and counts of workflows, and the operations on many workflows."""
