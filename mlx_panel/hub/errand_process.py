"""The process of a conversion or an import: an `Errand` in JSON, words on standard output.

    python -m mlx_panel.hub.errand_process PID_OF_THE_SERVER ERRAND

It ends when that process is gone. Nothing of the folder's code is run, and nobody is asked over the network.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from contextlib import redirect_stdout
from pathlib import Path

import msgspec

from ..errors import MlxPanelError
from .convert import group_of
from .errand import Errand, Word
from .gguf import import_gguf

WATCH_SECONDS = 0.5
LENGTH = 300
# Whatever mlx-lm and the libraries under it raise for files they cannot use.
FAULTS = (
    MlxPanelError, ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError, OSError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip
STAGES = {
    "Loading": "loading",
    "Using": "converting",
    "Quantizing": "quantising",
    "Dequantizing": "dequantising",
    "Quantized": "writing",
}


class Speaker:
    """The way out, kept apart from standard output, on which libraries print."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)

    def say(self, word: Word) -> None:
        try:
            self._out.write(msgspec.json.encode(word) + b"\n")
        except BrokenPipeError:
            os._exit(1)


class Stages(io.TextIOBase):
    """What mlx-lm prints, as steps."""

    def __init__(self, speaker: Speaker):
        self._speaker = speaker

    def write(self, text: str) -> int:
        words = text.removeprefix("[INFO]").split()
        if words and (stage := STAGES.get(words[0])):
            self._speaker.say(Word(kind="step", step=stage))
        return len(text)


def convert(errand: Errand, speaker: Speaker) -> None:
    """`errand.source` to `errand.draft`, by mlx-lm."""
    order = errand.convert
    assert order is not None
    from mlx_lm.convert import convert as mlx_convert

    with redirect_stdout(Stages(speaker)):
        mlx_convert(
            errand.source, errand.draft, quantize=bool(order.wanted), q_group_size=group_of(order),
            q_bits=order.wanted or None, q_mode=order.mode, dtype=order.dtype or None, dequantize=order.dequantize,
            quant_predicate=order.recipe or None, trust_remote_code=False,
        )  # fmt: skip
    for code in Path(errand.draft).glob("*.py"):  # mlx-lm takes the repository's programs along
        code.unlink()


def take_in(errand: Errand, speaker: Speaker) -> None:
    """A GGUF file to a model folder in `errand.draft`."""
    order = errand.gguf
    assert order is not None
    import_gguf(
        Path(order.file), Path(errand.draft), name=order.name, dtype=order.dtype or "keep",
        progress=lambda stage, done, total: speaker.say(Word(kind="step", step=stage, done=done, total=total)),
    )  # fmt: skip


def watch(parent: int) -> None:
    """End this process when its server is gone."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(4)

    threading.Thread(target=look, name="parent-watch", daemon=True).start()


def reason(error: Exception, errand: Errand) -> str:
    """One line about why, about files alone: no request is ever here."""
    if isinstance(error, MlxPanelError):
        return str(error)
    words = " ".join(str(error).split())
    for place in (errand.draft, errand.source):
        words = words.replace(place, Path(place).name) if place else words
    return f"{type(error).__name__}: {words}"[:LENGTH]


def main(arguments: list[str]) -> int:
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    speaker = Speaker()
    errand = msgspec.json.decode(arguments[1], type=Errand)
    watch(int(arguments[0]))
    try:
        (take_in if errand.convert is None else convert)(errand, speaker)
    except FAULTS as error:
        speaker.say(Word(kind="refused", text=reason(error, errand)))
        return 1
    speaker.say(Word(kind="done"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
