"""One systemd for all tests of this directory; each test makes units of its own on it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.systemd.testbed import Testbed, missing

REQUIRED = "WATCHDOG_KERNEL_TESTS"


@pytest.fixture(scope="session")
def testbed() -> Iterator[Testbed]:
    """A running systemd in namespaces. Skipped where the machine lacks something, failed if it must not."""
    if lacks := missing():
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"the systemd test bed needs {lacks}")
        pytest.skip(f"the systemd test bed needs {lacks}")
    with Testbed() as running:
        yield running
