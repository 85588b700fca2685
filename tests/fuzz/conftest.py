"""Fuzzing has the same daemons as the integration tests."""

from tests.integration.conftest import boot

__all__ = ["boot"]
