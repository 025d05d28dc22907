"""BPF LSM for tests: used where it works; where it must work (a virtual machine of ours), its absence is a failure."""

from __future__ import annotations

import os

import pytest

from watchdog.kernel import lsm
from watchdog.kernel.common import Common
from watchdog.kernel.layers.lsm import Lsm

REQUIRED = "WATCHDOG_LSM_TESTS"
"""Set to 1 where the kernel was booted with it. WATCHDOG_KERNEL_TESTS does not ask for it: a kernel that runs others'
machines often refuses such programs, and that is final."""

LAYER = Lsm()


def is_worth_trying() -> bool:
    """Whether this kernel was booted with it, or must have been."""
    return os.environ.get(REQUIRED) == "1" or not lsm.why_not_in_force()


def lsm_or_skip(common: Common) -> None:
    """Skip where BPF LSM does not work, in the layer's own words; fail where it must."""
    reason = LAYER.missing(common)
    if reason and os.environ.get(REQUIRED) == "1":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
