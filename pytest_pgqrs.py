"""The pytest plugin of pgqrs: an `Admin` for each test, on a schema of its own.

It is a module beside the package and imports nothing of it before a test asks for a fixture: whoever has pgqrs
installed pays nothing for it in their other tests. The fixtures are plain functions, so they serve pytest-asyncio
in its modes, anyio, and tests that are not asynchronous alike.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pgqrs import Admin
    from pgqrs.testing import TestClock
    from pgqrs.testing.schemas import BlockingSchemaPool


@pytest.fixture(scope="session")
def pgqrs_dsn(pytestconfig: pytest.Config) -> Iterator[str]:
    """Give the server of the tests: PGQRS_TEST_DSN, or an embedded one in `.pgqrs/testing` below the root.

    All test processes share the embedded one. Define a fixture of this name to choose another server.
    """
    from pgqrs import embedded  # noqa: PLC0415  # as above
    from pgqrs.testing.plugin import embedded_dsn  # noqa: PLC0415  # as above

    given = os.environ.get("PGQRS_TEST_DSN")
    if given and not embedded.is_embedded(given):
        yield given
        return
    dsn = given or embedded_dsn(pytestconfig.rootpath)
    yield embedded.start(dsn)
    embedded.stop(dsn)


@pytest.fixture(scope="session")
def pgqrs_schemas(pgqrs_dsn: str) -> Iterator[BlockingSchemaPool]:
    """Give the schemas that the tests of this process use, one after another."""
    from pgqrs.testing.schemas import BlockingSchemaPool  # noqa: PLC0415  # as above

    schemas = BlockingSchemaPool(pgqrs_dsn)
    yield schemas
    schemas.close()


@pytest.fixture
def pgqrs_admin_options() -> dict[str, Any]:
    """Return what `pgqrs_admin` is made with beside server and schema: define one to give it a codec, say."""
    return {}


@pytest.fixture
def pgqrs_admin(
    pgqrs_dsn: str, pgqrs_schemas: BlockingSchemaPool, pgqrs_admin_options: dict[str, Any]
) -> Iterator[Admin]:
    """Give an `Admin` on a schema that is the test's own, with empty tables and a clock that the test may move."""
    from pgqrs.testing.plugin import lent_admin  # noqa: PLC0415  # as above

    with lent_admin(pgqrs_dsn, pgqrs_schemas, pgqrs_admin_options) as admin:
        yield admin


@pytest.fixture
def pgqrs_clock(pgqrs_admin: Admin) -> TestClock:
    """Return the clock of `pgqrs_admin`, and of its schema."""
    from pgqrs.testing import clock_of  # noqa: PLC0415  # as above

    return clock_of(pgqrs_admin)
