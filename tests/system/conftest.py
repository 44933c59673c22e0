"""A cluster that tests copy."""

from __future__ import annotations

import pytest

from pgqrs import embedded
from tests.support.cluster import dsn_of, reachable_folder


@pytest.fixture(scope="session")
def template():
    """A folder with a cluster that has been stopped: copying one takes a tenth of the time of making one."""
    with reachable_folder() as outside:
        path = outside / "pg"
        embedded.start(dsn_of(path))
        embedded.stop(dsn_of(path))
        yield path
