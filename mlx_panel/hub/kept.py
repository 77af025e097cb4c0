"""A struct in a JSON file of the data folder: read once, written whole or not at all."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

log = logging.getLogger(__name__)
T = TypeVar("T")


class Kept(Generic[T]):
    """`value` is what the file held, or an empty one where there was none, or a damaged one. Both calls block."""

    def __init__(self, file: Path, kind: type[T]):
        self.file, self._kind = file, kind
        self.value: T = kind()

    def __repr__(self) -> str:
        return f"<Kept {self.file.name} {self._kind.__name__}>"

    def load(self) -> T:
        try:
            self.value = msgspec.json.decode(self.file.read_bytes(), type=self._kind)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("%s cannot be read (%s) and is begun anew", self.file.name, type(error).__name__)
        return self.value

    def save(self) -> None:
        """Raises OSError."""
        draft = self.file.with_suffix(".partial")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(self.value), indent=1))
        draft.replace(self.file)
