"""The records that a journal writes, each with its operation: the statement, and the meaning of its answer.

The files in reading order:

* `columns.py`: the columns of a record type, derived from its annotations.
* `operation.py`: the interface of an operation, which is the statement of one record type.
* `steps.py`: the operations on steps.
* `creation.py`: the operations that insert workflows.
* `runs.py`: the operations that start, end and release runs.
* `waits.py`: the waits of a run, which the statement that parks it records.
* `messages.py`: the operations that send and receive messages.
* `children.py`: the operations that insert children.
* `outbox.py`: the operations that record a step together with its messages, its events and its children.
* `registry.py`: the list of the operations, and the compiled statements.

`pgqrs/storage/records.py` has the records that the operations answer with.
"""
