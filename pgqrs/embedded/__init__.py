"""Embedded PostgreSQL servers on this machine, which ``embedded://`` DSNs address."""

from pgqrs.embedded.cluster import start, stop
from pgqrs.embedded.dsn import data_folder, exists, is_embedded

__all__ = ["data_folder", "exists", "is_embedded", "start", "stop"]
