"""The pytest plugin of pgqrs: an `Admin` for each test, on a schema of its own.

It is a module beside the package, and imports the package when a test asks for a fixture: an installed pgqrs costs
other tests no time. The fixtures are plain functions, so they work with pytest-asyncio in its modes, with anyio,
and with synchronous tests.
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
    """Yield the DSN of the test server: PGQRS_TEST_DSN, or an embedded server of the project.

    The embedded server has its files in `.pgqrs/testing` below the root directory. All test
    processes share it. Define a fixture of this name to choose another server.

    Yields:
        The DSN.
    """
    from pgqrs import embedded  # noqa: PLC0415  # see the module docstring
    from pgqrs.testing.plugin import embedded_dsn  # noqa: PLC0415  # see the module docstring

    given = os.environ.get("PGQRS_TEST_DSN")
    if given and not embedded.is_embedded(given):
        yield given
        return
    dsn = given or embedded_dsn(pytestconfig.rootpath)
    yield embedded.start(dsn)
    embedded.stop(dsn)


@pytest.fixture(scope="session")
def pgqrs_schemas(pgqrs_dsn: str) -> Iterator[BlockingSchemaPool]:
    """Yield the schemas that the tests of this process use in turn."""
    from pgqrs.testing.schemas import BlockingSchemaPool  # noqa: PLC0415  # see the module docstring

    schemas = BlockingSchemaPool(pgqrs_dsn)
    yield schemas
    schemas.close()


@pytest.fixture
def pgqrs_admin_options() -> dict[str, Any]:
    """Return the options of `pgqrs_admin`; define a fixture of this name to set a codec, for example.

    Returns:
        Keyword arguments of `Admin`; empty by default.
    """
    return {}


@pytest.fixture
def pgqrs_admin(
    pgqrs_dsn: str, pgqrs_schemas: BlockingSchemaPool, pgqrs_admin_options: dict[str, Any]
) -> Iterator[Admin]:
    """Yield an `Admin` on a schema of the test's own, with empty tables and a clock that the test can move.

    Yields:
        The `Admin`, which is closed after the test.
    """
    from pgqrs.testing.plugin import lent_admin  # noqa: PLC0415  # see the module docstring

    with lent_admin(pgqrs_dsn, pgqrs_schemas, pgqrs_admin_options) as admin:
        yield admin


@pytest.fixture
def pgqrs_clock(pgqrs_admin: Admin) -> TestClock:
    """Return the clock of `pgqrs_admin` and of its schema.

    Returns:
        The `TestClock`.
    """
    from pgqrs.testing import clock_of  # noqa: PLC0415  # see the module docstring

    return clock_of(pgqrs_admin)
