"""Counted things, as people read them."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """ "1 packet", "2,340 packets": the noun in the plural that ends in s."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
