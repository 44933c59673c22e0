"""The journal: the batching writer of an event loop. It knows no type of record; `storage/writes` has them.

The files in reading order:

* `futures.py`: the futures that callers await, and the ways to wake their tasks.
* `backlog.py`: the records that wait, and the batches that they form.
* `batches.py`: the writer of a batch, which resolves its records.
* `journal.py`: the journal itself, with the task that writes batch after batch.
* `running_marks.py`: the RUNNING marks of long steps, which are records of the journal too.
"""
