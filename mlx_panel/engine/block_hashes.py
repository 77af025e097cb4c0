"""Keyed hashes of a prompt's blocks of tokens: what a replay needs to share prefixes as the past did, and no text.

The chain is that of prefix caches (`prefix/blocks.py`; vLLM, Kwon et al. 2023, arXiv:2309.06180), but with a secret
key (BLAKE2b, RFC 7693): who has not the key can neither test a guessed prompt against a hash nor compare hashes that
were made with another key.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Sequence

# Half a block of the prefix cache (`prefix/cache.py`, 64): its blocks begin and end where these do, a replay knows to 32
# tokens how much two prompts share, and a prompt costs a quarter of a byte a token.
BLOCK_TOKENS = 32
HASH_BYTES = 8
TOKEN_BYTES = 4
# The same key used for anything else gives other hashes.
PURPOSE = b"mlx-panel replay"


def block_hashes(tokens: Sequence[int], key: bytes, *, block: int = BLOCK_TOKENS) -> bytes:
    """The hash of each whole block of `block` tokens, in order, `HASH_BYTES` each; empty for an empty key.

    Each covers the hash before it and its own tokens (uint32, little-endian), so two prompts have their first n hashes in
    common exactly where they have their first n blocks in common. What is left after the last whole block is not covered.
    Raises ValueError for a key of more than 64 bytes, OverflowError for a token that is no uint32.
    """
    if not key:
        return b""
    data = _packed(tokens)
    keyed = hashlib.blake2b(key=key, digest_size=HASH_BYTES, person=PURPOSE)
    size = block * TOKEN_BYTES
    found, before = [], b""
    for at in range(0, len(data) - size + 1, size):
        one = keyed.copy()  # the key is taken in once
        one.update(before + data[at : at + size])
        before = one.digest()
        found.append(before)
    return b"".join(found)


def _packed(tokens: Sequence[int]) -> bytes:
    packed = array("I", tokens)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()
