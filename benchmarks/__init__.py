"""`make bench`: pgqrs, its peers and the floor on one PostgreSQL server, in turn, with the same workloads."""
