"""What is kept encrypted in the data folder, and the key it is kept with.

Encryption is Fernet (AES-128 in CBC mode with an HMAC, https://github.com/fernet/spec). It keeps a secret out of
backups, searches and screenshots of the data folder; whoever can read the file `secret` can read what it locks.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken


class Unreadable(ValueError):
    """Something was encrypted with a key that is not here any more, or is damaged."""


class Secret:
    """The key in `folder`/secret, made the first time something is encrypted, for its owner's eyes only (0600).

    Every method blocks on the disk and may raise OSError.
    """

    def __init__(self, folder: Path):
        self.file = folder / "secret"

    def __repr__(self) -> str:
        return f"<Secret {self.file}>"

    def encrypt(self, text: str) -> bytes:
        """The text, encrypted. A key that is missing or is none is made anew: what it locked is lost already."""
        return (self._cipher() or self._made()).encrypt(text.encode())

    def decrypt(self, data: bytes) -> str:
        """What `encrypt` was given. Raises Unreadable, which quotes nothing."""
        cipher = self._cipher()
        if cipher is None:
            raise Unreadable(f"The key {self.file} is missing or damaged.")
        try:
            return cipher.decrypt(data).decode()
        except (InvalidToken, UnicodeDecodeError):
            raise Unreadable(f"It was not encrypted with the key {self.file}, or is damaged.") from None

    def _cipher(self) -> Fernet | None:
        try:
            return Fernet(self.file.read_bytes().strip())
        except (FileNotFoundError, ValueError):
            return None

    def _made(self) -> Fernet:
        key = Fernet.generate_key()
        write_private(self.file, key + b"\n")
        return Fernet(key)


def write_private(file: Path, data: bytes) -> None:
    """Replace a file in one step; it is never readable by others (0600), not even for a moment. Raises OSError."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
