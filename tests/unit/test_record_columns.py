"""The columns of a record type follow from the annotations of its fields."""

import time
from typing import Annotated, NamedTuple
from uuid import UUID, uuid4

import pytest
from sqlalchemy import BigInteger, Boolean, Double, Uuid

from pgqrs.models import Text
from pgqrs.storage.writes.columns import RecordColumns, SecondsSince
from pgqrs.types import WorkflowStatus


class Began(NamedTuple):
    workflow_id: int
    at: Annotated[float, SecondsSince("age")]


class BeganColumns(RecordColumns[Began]):
    name = "began"
    record = Began


class Thing(NamedTuple):
    workflow_id: int
    local: tuple[str, ...]
    name: str
    share: float | None
    owner: UUID
    status: WorkflowStatus | None = None
    is_kept: bool = False
    claim: int = 0


class ThingColumns(RecordColumns[Thing]):
    name = "thing"
    record = Thing
    unsent = frozenset({"local"})


OWNER = uuid4()
THING = Thing(7, ("a",), "x", None, OWNER, claim=5)


def test_each_field_that_is_sent_is_a_column_of_its_type():
    assert {name: type(kind) for name, kind in ThingColumns().columns.items()} == {
        "workflow_id": BigInteger,
        "claim": BigInteger,
        "name": Text,
        "share": Double,
        "owner": Uuid,
        "status": Text,
        "is_kept": Boolean,
    }


def test_the_binds_have_the_values_of_the_fields():
    values = ThingColumns().values(THING)
    assert values == {
        "thing_workflow_id": 7,
        "thing_claim": 5,
        "thing_name": "x",
        "thing_share": None,
        "thing_owner": OWNER,
        "thing_status": None,
        "thing_is_kept": False,
    }
    assert ThingColumns().picker(["thing_name", "thing_claim"])(THING) == ("x", 5)


def test_an_array_of_none_alone_is_not_sent():
    arrays = ThingColumns().arrays([THING, THING._replace(name="y", status=WorkflowStatus.WAITING)])
    assert arrays["thing_name"] == ["x", "y"]
    assert arrays["thing_status"] == [None, "WAITING"]
    assert arrays["thing_share"] is None


def test_each_encoding_sends_a_time_as_the_seconds_since_then():
    columns = BeganColumns()
    assert [type(kind) for kind in columns.columns.values()] == [BigInteger, Double]
    records = [Began(1, time.monotonic() - 60), Began(2, time.monotonic() - 30)]
    first, second = columns.arrays(records)["began_age"]
    assert (round(first), round(second)) == (60, 30)
    assert columns.arrays(records)["began_age"][0] > first
    assert columns.values(records[0])["began_age"] > first
    age, workflow_id = columns.picker(["began_age", "began_workflow_id"])(records[0])
    assert age > first
    assert workflow_id == 1


def test_a_field_of_another_type_must_be_unsent():
    class Sent(RecordColumns[Thing]):
        name = "sent"
        record = Thing

    with pytest.raises(TypeError, match=r"'local'.*unsent"):
        _ = Sent().columns
