"""Embedded PostgreSQL servers on this machine, which ``embedded://`` DSNs address."""

from pgqrs.embedded.cluster import data_folder, exists, is_embedded, start, stop

__all__ = ["data_folder", "exists", "is_embedded", "start", "stop"]
