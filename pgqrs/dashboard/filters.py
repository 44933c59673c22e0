"""The filter of the list, out of the fields of its form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

from starlette.datastructures import ImmutableMultiDict

from pgqrs.client.lists.conditions import attribute_of, time_of
from pgqrs.storage.selection.filters import WorkflowFilter

TEXTS = ("name", "queue", "key", "partition_key", "error")
"""The fields whose text is the condition itself."""

FIELDS = (*TEXTS, "status", "tags", "attributes", "parent", "since", "until")


class ListFilter(NamedTuple):
    """The filter of a list: its conditions, and the fields of the form that have them."""

    matching: WorkflowFilter
    fields: Mapping[str, list[str]]

    @property
    def query(self) -> str:
        """The fields as a query of a URL."""
        return urlencode(self.fields, doseq=True)


def list_filter(given: ImmutableMultiDict[str, Any]) -> ListFilter:
    """Return the filter that the fields of a form describe.

    Raises `ValueError`, or an error of pgqrs, with a sentence for the user.
    """
    fields: dict[str, list[str]] = {}
    for name in FIELDS:
        values = [each.strip() for each in given.getlist(name) if each.strip()]
        if values:
            fields[name] = values if name == "status" else values[:1]
    first = {name: values[0] for name, values in fields.items()}
    conditions: dict[str, Any] = {name: first[name] for name in TEXTS if name in first}
    if "status" in fields:
        conditions["status"] = fields["status"]
    if "tags" in first:
        conditions["tags"] = tuple(first["tags"].split())
    if "attributes" in first:
        conditions["attributes"] = dict(map(attribute_of, first["attributes"].split()))
    if "parent" in first:
        conditions["parent"] = int(first["parent"])
    if {"since", "until"} & first.keys():
        conditions["created"] = tuple(
            time_of(first[each]) if each in first else None for each in ("since", "until")
        )
    return ListFilter(WorkflowFilter(**conditions), fields)
