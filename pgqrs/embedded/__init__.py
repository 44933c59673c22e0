"""PostgreSQL servers of this machine that ``embedded://`` addresses name."""

from pgqrs.embedded.cluster import data_folder, exists, is_embedded, start, stop

__all__ = ["data_folder", "exists", "is_embedded", "start", "stop"]
