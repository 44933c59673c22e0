"""Plain assertions of the machine tell what differs, as those of tests do."""

import pytest

pytest.register_assert_rewrite(
    "tests.support.model_machine", "tests.support.model_talk", "tests.support.model_regulation"
)
