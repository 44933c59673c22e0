"""`make bench`: pgqrs, its peers and the floor, on one PostgreSQL, in turn, on the same work."""
