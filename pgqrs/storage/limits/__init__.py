"""Queues with limits: their rows, and the claim of their workflows."""
