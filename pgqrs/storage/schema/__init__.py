"""The tables of a schema: their migration, their check, and the rights of roles on them."""
