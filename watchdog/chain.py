"""The chain of the audit trail: each record's hash covers the one before it, so a cut, an edit or a move is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

CHAIN_START = "0" * 64


def canonical(facts: Mapping[str, object]) -> str:
    """The one way a record is written, so that it hashes the same wherever it is checked."""
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def chained(previous: str, record: str) -> str:
    """The hash of a record that follows the one with hash `previous`."""
    return hashlib.sha256(f"{previous}\n{record}".encode(errors="surrogatepass")).hexdigest()


def check_chain(rows: Sequence[tuple[int, str, str]], written: int) -> list[str]:
    """Pure: what is wrong with rows of (seq, record, hash), of which `written` were ever made."""
    problems = []
    previous, expected = CHAIN_START, 1
    for seq, record, digest in rows:
        if seq != expected:
            problems.append(f"{_records(expected, seq - 1)} missing")
        elif digest != chained(previous, record):
            problems.append(f"record {seq} was changed, or the one before it was")
        elif _own_seq(record) != seq:
            problems.append(f"record {seq} says it is another")
        previous, expected = digest, seq + 1
    if expected <= written:
        problems.append(f"{_records(expected, written)} cut off at the end")
    return problems


def _records(first: int, last: int) -> str:
    return f"record {first} is" if first == last else f"records {first} to {last} are"


def _own_seq(record: str) -> object:
    try:
        return json.loads(record)["seq"]
    except (ValueError, KeyError, TypeError):
        return None
