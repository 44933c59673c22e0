"""pgqrs under faults: worker processes that are killed and stopped, connections cut, PostgreSQL brought down.

``python -m chaos`` runs a workload that keeps a ledger beside pgqrs's own tables, injects the faults meanwhile,
and compares the two at the end.
"""
