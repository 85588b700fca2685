"""Fixtures of the tests of Postgres."""

import pytest

from tests.integration.postgres.changes import ALICE
from tests.postgres import Database


@pytest.fixture
def alice(database: Database) -> str:
    return database.add_user(ALICE)
