"""The limits of queues, for applications."""
