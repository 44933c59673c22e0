"""The options of submissions with a unique value."""
