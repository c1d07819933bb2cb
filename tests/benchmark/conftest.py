"""What all tests of a benchmark share."""

import pytest


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """A table is as wide as this, whatever the terminal that the tests are started from."""
    monkeypatch.setenv("COLUMNS", "120")
