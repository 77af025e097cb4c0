"""Which requests a proof makes. Pure: it only decides.

Nothing that a request of a proof asks for may be done: management routes get names that nothing has, bodies that are
refused, and what is refused before it is read. Two kinds of routes are not asked more than that: those that act at once,
and those that would send words to the hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from . import bodies
from .bodies import CHAT, COMPLETIONS, EMBEDDINGS, Texts
from .orders import Door, SendOrder

MODELS = (CHAT, COMPLETIONS, EMBEDDINGS)
# They ask the hub, so the words of a request leave this machine on purpose.
OUTWARD = ("/api/models/search", "/api/models/hub/{id}", "/api/settings/huggingface/test")
# POST routes without a name in their path that read a body before they do anything. Others are taken to act at once.
READING = (
    *MODELS, "/v1/admin/benchmarks", "/api/profiles", "/api/profiles/import", "/api/aliases/test", "/api/models/verify",
    "/api/models/probe", "/api/models/convert", "/api/models/import", "/api/models/download", "/v1/admin/audit-logs/sql",
)  # fmt: skip
STREAMS = re.compile(r"/api/live|.*progress|.*/ws/.*")
FOREIGN = "https://{}.example"
How = Literal["read", "leave", "leave later", "socket"]


class Sending(msgspec.Struct, frozen=True):
    """A request. "leave": the client hangs up at once, "leave later": after the first bytes; "socket": it asks for a
    WebSocket. `path` has its query. `slow` ones are done by a model."""

    group: str
    route: str
    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    how: How = "read"
    slow: bool = False


def plan(order: SendOrder) -> list[Sending]:
    """Everything a proof sends, in its order."""
    texts = Texts(order.canaries)
    doors = [door for door in order.doors if door.route not in MODELS]
    sendings = [sending for door in doors for sending in _management(door, texts)]
    sendings += [_get("dashboard", "(a page)", f"{page}?{_query(texts)}") for page in order.pages]
    sendings += _refused(texts)
    sendings += _generated(order.model, texts) if order.model else []
    sendings += [
        _post("embeddings", EMBEDDINGS, {"model": order.embedder, **body}, slow=True)
        for body in bodies.embeddings(texts)
        if order.embedder
    ]
    return sendings


# --- models -------------------------------------------------------------------------------------------------------


def _generated(model: str, texts: Texts) -> Iterator[Sending]:
    """What a model answers, or fails to."""
    named = {"model": model, "temperature": 0}
    for group, route, made in (
        ("chat", CHAT, bodies.chats(texts)),
        ("completions", COMPLETIONS, bodies.completions(texts)),
        ("tools", CHAT, bodies.tools(texts)),
        ("structured output", CHAT, bodies.held(texts)),
        ("errors", CHAT, bodies.refused(texts)),
    ):
        for body in made:
            yield _post(group, route, {**named, **body}, slow=group != "errors")
    long = {**named, "max_tokens": 400, "ignore_eos": True}
    leaving: list[tuple[dict[str, Any], How]] = [
        ({"stream": True}, "leave later"), ({"stream": True}, "leave"), ({}, "leave"),
    ]  # fmt: skip
    for more, how in leaving:
        for route, asked in (
            (CHAT, next(bodies.chats(texts))),
            (COMPLETIONS, next(bodies.completions(texts))),
        ):
            yield _post("clients that leave", route, {**asked, **long, **more}, how=how, slow=True)


def _refused(texts: Texts) -> Iterator[Sending]:
    """What no model sees: broken bodies, and models that nobody has."""
    for route in MODELS:
        for raw in bodies.broken(texts):
            yield Sending("errors", route, "POST", route, _json(), raw)
        asked: dict[str, Any] = {"input": texts.line} if route == EMBEDDINGS else {"prompt": texts.line}
        asked = {"messages": [{"role": "user", "content": texts.line}]} if route == CHAT else asked
        for name in texts.short:
            for more in ({}, {"stream": True}) if route != EMBEDDINGS else ({},):
                yield _post("errors", route, {"model": name, **asked, **more})
        yield Sending(
            "errors",
            route,
            "POST",
            f"{route}?{_query(texts)}",
            (("Content-Type", "text/plain"),),
            texts.line.encode(),
        )


# --- management ---------------------------------------------------------------------------------------------------


def _management(door: Door, texts: Texts) -> Iterator[Sending]:
    group = "WebSockets" if "/ws/" in door.route else "management"
    first, *others = _paths(door, texts)
    yield from _turned_away(door, group, first, texts)
    if door.route in OUTWARD:
        return
    for verb in door.verbs:
        if verb == "GET":
            yield from _read(door, group, first, others, texts)
        elif verb != "DELETE" or _named(door):
            for path in (first, *others):
                yield from _changed(door, group, verb, path, texts)


def _read(door: Door, group: str, first: str, others: list[str], texts: Texts) -> Iterator[Sending]:
    how: How = (
        "socket" if group == "WebSockets" else "leave later" if STREAMS.fullmatch(door.route) else "read"
    )
    for query in (_query(texts), f"model={_quoted(texts.plain)}"):
        yield _get(group, door.route, f"{first}?{query}", how)
    for path in others:
        yield _get(group, door.route, path, how)


def _changed(door: Door, group: str, verb: str, path: str, texts: Texts) -> Iterator[Sending]:
    """What would change something, but for a name that nothing has or a body that is refused."""
    if verb == "DELETE":
        yield Sending(group, door.route, verb, path)
    elif _named(door) or verb in ("PUT", "PATCH") or door.route in READING or door.route == "(no route)":
        for raw in (b'{"' + texts.line.encode(), *map(msgspec.json.encode, _wrong(door.route, texts))):
            yield Sending(group, door.route, verb, path, _json(), raw)


def _turned_away(door: Door, group: str, path: str, texts: Texts) -> Iterator[Sending]:
    """With each of its methods and one that it has not, but refused before anything is done: by its content type, its
    origin, or the method itself."""
    plain = (("Content-Type", "text/plain"),)
    for verb in ("PATCH", *(verb for verb in door.verbs if verb != "GET")):
        yield Sending(group, door.route, verb, path, plain, texts.line.encode())
    origin = (("Origin", FOREIGN.format(texts.plain)),)
    yield Sending(group, door.route, "GET", f"{path}?{_query(texts)}", origin)


def _wrong(route: str, texts: Texts) -> Iterator[dict[str, Any]]:
    """JSON that the route refuses, and what a few of them take without keeping it."""
    word, line = texts.plain, texts.line
    yield {word: line, line: [word, {word: line}]}
    if route in ("/v1/admin/benchmarks", "/api/models/verify", "/api/models/probe"):
        yield {"model": word}
    elif route == "/api/aliases/test":
        yield {"name": word}
    elif route == "/api/profiles/import":
        yield {"toml": line}
    elif route == "/api/aliases":
        yield {"aliases": [{"pattern": word, "note": line}]}
    elif route == "/api/settings/timeouts":
        yield {"timeout_chat_seconds": line}
    elif route == "/v1/admin/audit-logs/sql":
        yield {"sql": f"SELECT '{word}' AS {word}"}
        yield {"sql": f"SELECT {word} FROM {word} -- {texts['digits']}"}


def _paths(door: Door, texts: Texts) -> list[str]:
    """The route with canaries for what it takes by name."""
    if door.route == "(no route)":
        return [f"/v1/{_quoted(text)}" for text in texts.short]
    if not _named(door):
        return [door.route]
    names = (texts.plain, texts["foreign"], texts["escaped"].replace("/", "-"))
    return [re.sub(r"\{[^}]+\}", _quoted(name), door.route) for name in names]


def _named(door: Door) -> bool:
    return "{" in door.route


def _get(group: str, route: str, path: str, how: How = "read") -> Sending:
    return Sending(group, route, "GET", path, how=how)


def _post(group: str, route: str, body: dict[str, Any], how: How = "read", slow: bool = False) -> Sending:
    return Sending(group, route, "POST", route, _json(), msgspec.json.encode(body), how, slow)


def _json() -> tuple[tuple[str, str], ...]:
    return (("Content-Type", "application/json"),)


def _query(texts: Texts) -> str:
    return "&".join(f"{_quoted(text)}={_quoted(text)}" for text in texts.short)


def _quoted(text: str) -> str:
    return quote(text, safe="")


def around(texts: Texts, id: str) -> dict[str, str]:
    """Headers that every request carries: canaries in those that programs keep, and an id that says what this is."""
    return {
        "X-Request-ID": id,
        "User-Agent": texts.plain,
        "Authorization": f"Bearer {texts['base64']}",
        "Cookie": f"session={texts.plain}",
        "Referer": FOREIGN.format(texts.plain),
        "Accept-Language": texts.plain,
        "X-Forwarded-For": texts.plain,
        "X-Canary": _quoted(texts.line),
    }
