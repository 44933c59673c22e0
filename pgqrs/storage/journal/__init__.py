"""The journal: the batching writer of an event loop.

The files in reading order:

* `operation.py`: the interface of an operation, which is the statement of one record type.
* `steps.py`: the operations on steps.
* `workflows.py`: the operations on workflows.
* `registry.py`: the operation of each record type, and the statement of a batch.
* `futures.py`: the futures that callers await, and the ways to wake their tasks.
* `journal.py`: the journal itself.
* `running_marks.py`: the RUNNING marks of long steps, which are records of the journal too.

The record types themselves are in `pgqrs/storage/records.py`.
"""
