"""The journal: the batching writer of an event loop.

The files in reading order:

* `columns.py`: the columns of a record type, derived from its annotations.
* `operation.py`: the interface of an operation, which is the statement of one record type.
* `steps.py`: the operations on steps, with their records.
* `creation.py`: the operations that insert workflows, with their records.
* `runs.py`: the operations that start, end and release runs, with their records.
* `registry.py`: the list of the operations, and the compiled statements.
* `futures.py`: the futures that callers await, and the ways to wake their tasks.
* `backlog.py`: the records that wait, and the batches that they form.
* `batches.py`: the writer of a batch, which resolves its records.
* `journal.py`: the journal itself, with the task that writes batch after batch.
* `running_marks.py`: the RUNNING marks of long steps, which are records of the journal too.

`pgqrs/storage/records.py` has the records that the operations answer with.
"""
