"""Engines, transactions and driver connections, and the translation of their errors."""
