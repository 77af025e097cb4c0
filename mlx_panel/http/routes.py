"""All API routes, in the order in which they are tried."""

from __future__ import annotations

from typing import Any

from . import (
    admin,
    benchmarks,
    cache,
    downloads,
    embeddings,
    fallback,
    health,
    hub,
    library,
    openai_chat,
    openai_completions,
    openai_models,
    pool,
    presets,
    servers,
)
from .endpoint import Endpoint
from .house import FindHouse

MODULES = (
    health,
    openai_chat,
    openai_completions,
    embeddings,
    openai_models,
    admin,
    cache,
    benchmarks,
    pool,
    downloads,
    library,
    hub,
    presets,
    servers,
    fallback,
)

Route = tuple[str, type[Endpoint], dict[str, Any]]


def routes(house: FindHouse) -> list[Route]:
    """Tornado rules whose handlers find their server through `house`."""
    return [(pattern, handler, {"house": house}) for module in MODULES for pattern, handler in module.routes]
