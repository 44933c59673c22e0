"""The SQL statements of the storage, written with SQLAlchemy Core, and the repositories that execute them."""
