"""All API routes, in the order in which they are tried."""

from __future__ import annotations

from typing import Any

from . import (
    admin,
    audit,
    audit_export,
    audit_feed,
    audit_request,
    audit_settings,
    audit_sql,
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
    prove,
    replay,
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
    replay,  # before what takes any id
    admin,
    audit,
    audit_export,
    audit_feed,
    audit_settings,
    audit_sql,
    cache,
    benchmarks,
    pool,
    downloads,
    library,
    hub,
    presets,
    prove,
    servers,
    audit_request,  # behind those with a name of their own
    fallback,
)

Route = tuple[str, type[Endpoint], dict[str, Any]]


def routes(house: FindHouse) -> list[Route]:
    """Tornado rules whose handlers find their server through `house`."""
    return [(pattern, handler, {"house": house}) for module in MODULES for pattern, handler in module.routes]
