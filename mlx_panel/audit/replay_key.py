"""The key with which prompts' blocks are hashed: a file of its own in the data folder, told to nobody but workers."""

from __future__ import annotations

import secrets
from pathlib import Path

from ..secret import write_private

FILE = "replay.key"
KEY_BYTES = 32


def replay_key(folder: Path) -> bytes:
    """The 32 bytes in `folder`/replay.key, made the first time (0600). Blocks. Raises OSError.

    A file of another length is no key and is made anew. Without its key nothing can be learnt from older hashes, not even
    that they are of the same prompt as newer ones: to delete the file and start the server anew is to forget.
    """
    file = folder / FILE
    try:
        key = file.read_bytes()
    except FileNotFoundError:
        key = b""
    if len(key) != KEY_BYTES:
        key = secrets.token_bytes(KEY_BYTES)
        write_private(file, key)
    return key
