"""`mlx-panel chat MODEL`: a conversation in the terminal, streamed; Ctrl-C ends an answer, Ctrl-D the chat."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
from rich.console import Console

from .errors import MlxPanelError, ServerUnreachable
from .settings import DEFAULT_PORT, PREFIX

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
FOREIGN = "That address does not answer like an mlx-panel server."
HELP = "/reset forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C ends an answer, /help says this."


class Refused(MlxPanelError):
    """The server answered with an error; its words are for the person who chats."""

    code, title = "refused", "Refused"


class Said(NamedTuple):
    """A piece of the answer, or of the reasoning before it."""

    text: str
    thought: bool = False


class Conversation:
    """Turns so far, and the next answer from a server."""

    def __init__(self, client: httpx.Client, model: str, options: dict[str, Any], system: str | None = None):
        self._client, self._model, self._options = client, model, options
        self._system = [{"role": "system", "content": system}] if system else []
        self.turns: list[dict[str, str]] = []

    def reset(self) -> None:
        self.turns = []

    def ask(self, text: str) -> Generator[Said, None, None]:
        """Pieces as they come; what has come of the answer when the reading stops is part of the conversation.

        Raises Refused with the server's message, ServerUnreachable.
        """
        self.turns.append({"role": "user", "content": text})
        pieces: list[str] = []
        try:
            for said in self._stream():
                if not said.thought:
                    pieces.append(said.text)
                yield said
        finally:
            if pieces:
                self.turns.append({"role": "assistant", "content": "".join(pieces)})
            else:
                self.turns.pop()

    def _stream(self) -> Iterator[Said]:
        body = {
            "model": self._model,
            "messages": [*self._system, *self.turns],
            "stream": True,
            **self._options,
        }
        with (
            _reached(self._client),
            self._client.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            if response.status_code != 200:
                raise Refused(_message(_json(response.read())))
            for line in response.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield from _pieces(_json(line.removeprefix("data: ")))


def _json(text: str | bytes) -> dict[str, Any]:
    """What a server of ours says. Raises Refused for anything else."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Refused(FOREIGN) from error
    if not isinstance(value, dict):
        raise Refused(FOREIGN)
    return value


def _pieces(chunk: dict[str, Any]) -> Iterator[Said]:
    if "error" in chunk:
        raise Refused(_message(chunk))
    for choice in chunk["choices"]:
        delta = choice["delta"]
        if delta.get("reasoning_content"):
            yield Said(delta["reasoning_content"], thought=True)
        if delta.get("content"):
            yield Said(delta["content"])


def _message(problem: dict[str, Any]) -> str:
    return (
        problem.get("detail") or problem.get("error", {}).get("message") or "The server refused the request."
    )


@contextlib.contextmanager
def _reached(client: httpx.Client) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        raise ServerUnreachable(
            f"No answer from {client.base_url}. Start the server with: mlx-panel serve"
        ) from error


def run(args: argparse.Namespace) -> int:
    """The command. Returns the exit status."""
    console = Console(highlight=False)
    url = (
        (args.url or f"http://127.0.0.1:{os.environ.get(PREFIX + 'PORT') or DEFAULT_PORT}")
        .rstrip("/")
        .removesuffix("/v1")
    )
    options = {
        name: value
        for name, value in (("temperature", args.temperature), ("max_tokens", args.max_tokens))
        if value is not None
    }
    with httpx.Client(base_url=url, timeout=httpx.Timeout(10, read=None)) as client:
        _check(client, args.model)
        console.print(f"[bold]{args.model}[/] on {url}. {HELP}", style="dim")
        _talk(console, Conversation(client, args.model, options, args.system))
    return 0


def _check(client: httpx.Client, model: str) -> None:
    """Fail before the first question where the server or the model is not there."""
    with _reached(client):
        response = client.get(f"/v1/models/{quote(model)}")
    if response.status_code != 200:
        raise Refused(_message(_json(response.content)))
    if "id" not in _json(response.content):
        raise Refused(FOREIGN)


def _talk(console: Console, conversation: Conversation) -> None:
    while True:
        try:
            text = _typed(console.input("[bold cyan]> [/]"))
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if text in ("/exit", "/quit"):
            return
        if text == "/help":
            console.print(HELP, style="dim")
        elif text == "/reset":
            conversation.reset()
            console.print("The conversation is forgotten.", style="dim")
        elif text:
            _answer(console, conversation, text)


def _answer(console: Console, conversation: Conversation, text: str) -> None:
    """Print an answer as it comes. Leaving the stream closes the connection, which ends the work on the server."""
    answer = conversation.ask(text)
    try:
        with contextlib.closing(answer):
            thought = False
            for piece in answer:
                if thought and not piece.thought:
                    console.print("\n")
                thought = piece.thought
                style = "dim italic" if thought else None
                console.print(printable(piece.text), end="", markup=False, soft_wrap=True, style=style)
    except KeyboardInterrupt:
        console.print(" [dim](stopped)[/]", end="")
    except MlxPanelError as error:
        console.print(f"\n{printable(str(error))}", style="red", end="", markup=False)
    console.print()


def _typed(text: str) -> str:
    """A line as it was meant: bytes that are no UTF-8 cannot be sent."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").strip()


def printable(text: str) -> str:
    """Text without control characters: what a model says must not drive the terminal it is shown on."""
    return CONTROL.sub("", text)
