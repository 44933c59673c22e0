"""pgqrs under faults: killed and stopped worker processes, cut connections, and crashes of PostgreSQL.

``python -m chaos`` runs a workload that keeps a ledger beside the tables of pgqrs, injects faults meanwhile, and
compares the two at the end.
"""
