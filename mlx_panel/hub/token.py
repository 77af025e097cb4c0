"""The key to the hub: what of it was entered here is kept encrypted, and told to nobody but the hub.

A token entered here wins over `HF_TOKEN` of the environment, and that over the one `hf auth login` has left: what a
person typed in last and here is what they mean. Taking it back makes the next of them hold again.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from ..errors import HubRefused, InvalidParameter
from ..secret import Secret, Unreadable, write_private

Source = Literal["", "stored", "environment", "login"]
FITTING = re.compile(r"[\x21-\x7e]{1,512}")  # what an HTTP header can carry
LOST = (
    "The hub token kept here cannot be read any more, since the key it was encrypted with ({file}) is lost or another "
    "one. Enter the token again, or remove it."
)
TRUE = ("1", "true", "yes", "on")


class Stored(msgspec.Struct, frozen=True):
    """What the file holds once decrypted. `user` is whom the hub says the token belongs to, "" before it was asked."""

    token: str
    user: str = ""

    def __repr__(self) -> str:
        return f"<Stored of {self.user or 'somebody'}>"


class Token:
    """The token of a data folder. Made from its file at once; `set`, `clear` and `keep_user` block on the disk."""

    def __init__(self, folder: Path, environment: Mapping[str, str] = os.environ):
        self.file = folder / "hub-token"
        self._secret = Secret(folder)
        self._given = environment.get("HF_TOKEN", "").strip()
        self._login = _login(environment)
        self._stored: Stored | None = None
        self._user = ""
        self.lost = ""  # why the stored one cannot be read
        self._load()

    def __repr__(self) -> str:
        return f"<Token {'lost' if self.lost else self.source or 'none'} {self.file}>"

    def _load(self) -> None:
        try:
            data = self.file.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            self.lost = f"The hub token in {self.file} cannot be read: {error.strerror}."
            return
        try:
            self._stored = msgspec.json.decode(self._secret.decrypt(data), type=Stored)
        except (Unreadable, msgspec.DecodeError):
            self.lost = LOST.format(file=self._secret.file)

    @property
    def source(self) -> Source:
        """Where the token in use comes from, "" without one."""
        if self._stored or self.lost:
            return "stored"
        if self._given:
            return "environment"
        return "login" if self._login else ""

    @property
    def user(self) -> str:
        """Whom the hub said the token belongs to, "" before `keep_user`."""
        return self._stored.user if self._stored else self._user

    def value(self) -> str:
        """The token, "" without one. Raises HubRefused where the stored one is lost: it is not replaced silently."""
        if self.lost:
            raise HubRefused(self.lost)
        token = self._stored.token if self._stored else self._given or self._login
        if token and not FITTING.fullmatch(token):
            raise HubRefused(
                f"What the {self.source} gives as hub token is none: it holds signs no token has."
            )
        return token

    def set(self, token: str) -> None:
        """Keep a token. Raises InvalidParameter, which does not quote it, and OSError."""
        token = token.strip()
        if not FITTING.fullmatch(token):
            raise InvalidParameter(
                "A token is one word of up to 512 letters, digits and signs, as the hub shows it.",
                field="token",
            )
        self._keep(Stored(token))

    def clear(self) -> None:
        """Forget the token kept here. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            self.file.unlink()
        self._stored, self.lost, self._user = None, "", ""

    def keep_user(self, name: str) -> None:
        """Remember whose token it is. Raises OSError."""
        if self._stored:
            self._keep(Stored(self._stored.token, name))
        self._user = name

    def _keep(self, stored: Stored) -> None:
        write_private(self.file, self._secret.encrypt(msgspec.json.encode(stored).decode()))
        self._stored, self.lost, self._user = stored, "", ""


def _login(environment: Mapping[str, str]) -> str:
    """What `hf auth login` has left, unless the environment says that it is not to be used by itself."""
    if environment.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() in TRUE:
        return ""
    home = environment.get("HF_HOME") or f"{environment.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    file = Path(environment.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
