"""Every path that is nothing: the same problem document as everywhere."""

from __future__ import annotations

from ..errors import RouteNotFound
from .endpoint import Endpoint


class Fallback(Endpoint):
    verbs = ("GET", "POST", "PUT", "PATCH", "DELETE")
    route = "(no route)"

    async def answer(self, *path: str) -> None:
        raise RouteNotFound


routes = [(r"/(?:v1|api)(?:/.*)?", Fallback)]
