"""Equal rows, and which rows are held back for evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from ftadvise.runner.data.rows import Row

_SALT = b"ftadvise evaluation split 1"


def row_key(row: Row) -> bytes:
    """16 bytes that are the same for rows that say the same, white space apart."""
    digest = hashlib.blake2b(digest_size=16)
    for role, content in row.dialogue or (("text", row.text),):
        digest.update(f"{role}\x1f{' '.join(content.split())}\x1e".encode())
    return digest.digest()


def held_back(keys: Iterable[bytes], share: float) -> frozenset[bytes]:
    """The keys of the rows to evaluate on: `share` of the distinct ones, at least one.

    They are those with the smallest hash, so the choice depends on the rows alone: not on their order, nor on the seed of the run (runs
    with other seeds stay comparable), and rows that are added later move few. Equal rows are on the same side.
    """
    distinct = sorted(set(keys), key=lambda key: hashlib.blake2b(key, key=_SALT, digest_size=8).digest())
    return frozenset(distinct[: max(1, round(share * len(distinct)))])
