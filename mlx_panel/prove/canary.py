"""Canaries: random texts of several shapes, and every form in which one could lie in a file. Pure but for the dice."""

from __future__ import annotations

import base64
import html
import json
import secrets
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

import msgspec

CONSONANTS = "bcdfghjklmnpqrstvwxz"  # no vowels: no word of any language by chance
LETTERS = CONSONANTS + "23456789"
FOREIGN = "äöüßøéжщλ日本語😀🦜"
CONTROL = "control"


class Canary(msgspec.Struct, frozen=True):
    """A text nobody has ever written, and what is special about it. Its `repr` does not tell it."""

    shape: str
    text: str

    def __repr__(self) -> str:
        return f"<Canary {self.shape}, {len(self.text)} characters>"


def make() -> tuple[Canary, ...]:
    """One of each shape, with 60 random bits or more in every window that is searched for."""
    return (
        Canary("plain", _of(LETTERS, 18)),
        Canary("foreign", "".join(secrets.choice(LETTERS) + secrets.choice(FOREIGN) for _ in range(14))),
        Canary("escaped", "".join(_of(LETTERS, 2) + secrets.choice('"\\\n\t\r/<&') for _ in range(10))),
        Canary("base64", base64.b64encode(secrets.token_bytes(24)).decode()),
        Canary("digits", _of("0123456789", 32)),
        Canary("long", " ".join(_of(CONSONANTS, 7) for _ in range(60))),
    )


def control() -> Canary:
    """What is planted to see that the search finds it, in every form."""
    return Canary(CONTROL, _of(LETTERS, 8) + 'ä"😀' + _of(LETTERS, 8))


def _of(letters: str, count: int) -> str:
    return "".join(secrets.choice(letters) for _ in range(count))


def windows(canary: Canary) -> list[str]:
    """Pieces that are searched for: a text of which a part was kept is found too, from some 20 characters on."""
    size, step = {"digits": (18, 7), "foreign": (10, 4)}.get(canary.shape, (12, 6))
    text = canary.text
    if canary.shape == CONTROL or len(text) <= size:
        return [text]
    return [text[start : start + size] for start in (*range(0, len(text) - size, step), len(text) - size)]


def forms(text: str) -> dict[bytes, str]:
    """Every encoding of a text that is searched for, with its name; equal ones under the first name."""
    found: dict[bytes, str] = {}
    for name, form in _forms(text):
        found.setdefault(form, name)
    return found


def _forms(text: str) -> Iterator[tuple[str, bytes]]:
    raw = text.encode()
    yield "UTF-8", raw
    yield "UTF-16 LE", text.encode("utf-16-le")
    yield "UTF-16 BE", text.encode("utf-16-be")
    yield "UTF-32 LE", text.encode("utf-32-le")
    yield "upper case", text.upper().encode()
    yield "reversed", text[::-1].encode()
    for name, form in (*_escaped(text), *_percent(raw)):
        yield name, form.encode()
    yield "hexadecimal", raw.hex().encode()
    yield "hexadecimal, capitals", raw.hex().upper().encode()
    yield from _base64(raw)


def _escaped(text: str) -> Iterator[tuple[str, str]]:
    """As programs write a text into JSON, Python, HTML and CSV."""
    for ascii in (True, False):
        once = json.dumps(text, ensure_ascii=ascii)[1:-1]
        yield "JSON", once
        yield "JSON in JSON", json.dumps(once, ensure_ascii=ascii)[1:-1]
    units = text.encode("utf-16-be").hex()
    full = "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
    yield "JSON \\u", full
    yield "JSON \\u, capitals", full.upper().replace("\\U", "\\u")
    yield "Python", repr(text)[1:-1]
    yield "Python bytes", repr(text.encode())[2:-1]
    yield "\\x", "".join(f"\\x{byte:02x}" for byte in text.encode())
    yield "\\x, capitals", "".join(f"\\x{byte:02X}" for byte in text.encode())
    yield "HTML", html.escape(text)
    yield "CSV", text.replace('"', '""')


def _percent(raw: bytes) -> Iterator[tuple[str, str]]:
    """As in an address."""
    for coded in (quote(raw, safe=""), quote(raw), quote_plus(raw)):
        yield "percent-encoded", coded
        yield "percent-encoded", _lowered(coded)
    yield "percent-encoded wholly", "".join(f"%{byte:02X}" for byte in raw)
    yield "percent-encoded wholly", "".join(f"%{byte:02x}" for byte in raw)


def _lowered(coded: str) -> str:
    """Percent codes with small letters; what is not coded stays."""
    head, *rest = coded.split("%")
    return head + "".join(f"%{part[:2].lower()}{part[2:]}" for part in rest)


def _base64(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """The part of each of the three possible lines that depends on this text alone (RFC 4648, both alphabets)."""
    for offset in range(3):
        coded = base64.b64encode(bytes(offset) + raw)
        start = -(-offset * 8 // 6)
        inner = coded[start : (offset + len(raw)) * 8 // 6]
        yield f"base64 at {offset}", inner
        yield f"base64 for addresses at {offset}", inner.translate(bytes.maketrans(b"+/", b"-_"))


def token_forms(tokens: list[int]) -> dict[bytes, str]:
    """A run of token numbers as a program would write it: whole numbers of 4 and 8 bytes, and as text."""
    small = b"".join(token.to_bytes(4, "little") for token in tokens)
    large = b"".join(token.to_bytes(8, "little") for token in tokens)
    return {
        small: "tokens, 32 bits",
        large: "tokens, 64 bits",
        small.hex().encode(): "tokens, hexadecimal",
        ", ".join(map(str, tokens)).encode(): "tokens, numbers",
        ",".join(map(str, tokens)).encode(): "tokens, numbers",
    }
