"""The records that a journal sends as one statement, with operations of the test alone."""

import asyncio
from typing import NamedTuple

import pytest
from sqlalchemy import select

from pgqrs.observer import Observer
from pgqrs.storage.journal.journal import Journal
from pgqrs.storage.sql.expressions import ONE
from pgqrs.storage.writes.operation import NO_CONFLICT, Operation
from pgqrs.storage.writes.registry import Operations


class Message(NamedTuple):
    workflow_id: int
    number: str


class StepNote(NamedTuple):
    workflow_id: int
    step_id: str


class Change(NamedTuple):
    workflow_id: int


class _Write(Operation):
    def statement(self, *, single=False):
        assert not single
        return select(*self.returning(self.rows().c.workflow_id, ONE))

    def can_be_single(self, record):
        return False

    def result_for(self, record, epoch):
        return True

    def resolve_missing(self, record, current):
        raise AssertionError("every record is answered")


class WriteMessage(_Write):
    name = "message"
    record = Message

    def conflict_key(self, record):
        return NO_CONFLICT


class WriteNote(_Write):
    name = "note"
    record = StepNote

    def conflict_key(self, record):
        return record.step_id


class WriteChange(_Write):
    name = "change"
    record = Change


class Sizes(Observer):
    """Keeps how many records each statement had."""

    def __init__(self):
        self.batches = []

    async def writing(self, records):
        self.batches.append(len(records))


async def batches_of(admin, records):
    """Submit records in one go and return the number of records of each statement."""
    sizes = Sizes()
    operations = Operations([WriteMessage(), WriteNote(), WriteChange()])
    journal = Journal((await admin.store()).database, operations=operations, observer=sizes)
    async with asyncio.timeout(10):
        assert await asyncio.gather(*(journal.submit(each) for each in records)) == [True] * len(records)
        await journal.close()
    return sizes.batches


async def test_a_thousand_records_without_conflict_are_one_batch(admin):
    assert await batches_of(admin, [Message(7, str(n)) for n in range(1000)]) == [1000]


A, B = StepNote(7, "a"), StepNote(7, "b")
M, N = Message(7, "1"), Message(7, "2")
WHOLE, ELSEWHERE = Change(7), Change(8)


@pytest.mark.parametrize(
    ("records", "batches"),
    [
        ([A, B, M, N], [4]),
        ([A, A], [1, 1]),
        ([M, A, N, A], [3, 1]),
        ([M, WHOLE, N], [1, 1, 1]),
        ([WHOLE, A], [1, 1]),
        ([A, WHOLE, ELSEWHERE], [1, 2]),
        ([WHOLE, ELSEWHERE, WHOLE], [2, 1]),
    ],
)
async def test_a_record_conflicts_by_its_key(admin, records, batches):
    assert await batches_of(admin, records) == batches
