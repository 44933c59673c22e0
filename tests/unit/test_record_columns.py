"""The columns of a record type follow from the annotations of its fields."""

from typing import NamedTuple
from uuid import UUID, uuid4

import pytest
from sqlalchemy import BigInteger, Boolean, Double, Uuid

from pgqrs.models import Text
from pgqrs.storage.journal.columns import RecordColumns
from pgqrs.types import WorkflowStatus


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


def test_a_field_of_another_type_must_be_unsent():
    class Sent(RecordColumns[Thing]):
        name = "sent"
        record = Thing

    with pytest.raises(TypeError, match=r"'local'.*unsent"):
        _ = Sent().columns
