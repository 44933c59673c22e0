"""Plans of prepared statements, as EXPLAIN shows them."""

from __future__ import annotations

import json


def literal(value):
    """Return a value as the text of an argument of EXECUTE."""
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return "'{" + ",".join(json.dumps(each) for each in value) + "}'"
    return str(value) if isinstance(value, bool | int | float) else f"'{value}'"


def nodes(plan):
    """Yield each node of a plan."""
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def pages(plan):
    """Return the number of pages that the execution of a plan has touched."""
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def check_indexed(plan):
    """Assert that each scan of the workflows has a condition on an index."""
    for node in nodes(plan):
        if node.get("Relation Name") == "pgqrs_workflows" and "Scan" in node["Node Type"]:
            assert node["Node Type"] in {"Index Scan", "Index Only Scan"}, node
            assert "Index Cond" in node, node


class Prepared:
    """A statement that is prepared in one session, which is best done while the tables are empty."""

    def __init__(self, store, driver, statement, given):
        self._compiled = store.database.compile(statement)
        self._driver = driver
        self._given = given

    async def prepare(self):
        """Prepare the statement, and plan it once."""
        await self._driver.execute(f"PREPARE planned AS {self._compiled.text}")
        await self.plan()

    async def plan(self, **values):
        """Execute, roll back, and return the plan."""
        arguments = ", ".join(map(literal, self._compiled.arguments(self._given | values)))
        transaction = self._driver.transaction()
        await transaction.start()
        try:
            text = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE planned({arguments})"
            found = await self._driver.fetchval(text)
        finally:
            await transaction.rollback()
        (top,) = json.loads(found) if isinstance(found, str) else found
        return top["Plan"]
