"""The states of partition keys, for their readers."""
