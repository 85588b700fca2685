"""Fixtures of the tests of sessions."""

import pytest

from tests.integration.scene import ALICE, BOB
from tests.postgres import Database


@pytest.fixture
def people(database: Database) -> None:
    """The users of a `Scene`."""
    for user in (ALICE, BOB):
        database.add_user(user)
