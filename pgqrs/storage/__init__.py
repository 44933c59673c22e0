"""Storage of workflows and steps in PostgreSQL.

Its layers, from the top; each layer imports only layers below it:

* the files of this package, such as `store` (the operations of one event loop), `heartbeat` and `migrate`;
* `journal`: the batching writer of an event loop, and the operations that it writes;
* `connections`: engines, transactions and driver connections;
* `queries`: the SQL statements, and the repositories that run them on any connection;
* `records`: the records that the other layers write and return.
"""
