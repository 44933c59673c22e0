"""The limits of queues, and the states of partition keys, for applications."""
