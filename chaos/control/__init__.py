"""The queues with limits and the schedules of a chaos run, and their checks."""
