"""The settings of the model pool: how much models may take, who leaves first, who stays. All can be changed live."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import param

from .engine_settings import fitting
from .sizing import parse_limit

LONGEST = 31_536_000  # a year
MOST_NAMES = 1000  # in a list or a table: each decision looks at all of them


class PoolSettings(param.Parameterized):
    """What `Settings` inherits. Durations are seconds; 0 means never, or no limit."""

    memory_limit = param.String(
        "auto",
        doc="What all models may take together: auto, an amount (24GB, 800MB) or a share of the memory (75%).",
    )
    max_models = param.Integer(0, bounds=(0, 1000), doc="Most models in memory at once; 0 is as many as fit.")
    idle_ttl_seconds = param.Number(
        3600, bounds=(0, LONGEST), doc="A model that nobody uses for this long is unloaded; 0 is never."
    )
    model_ttls = param.Dict({}, doc="The same for one model, by its name.")
    eviction: Any = param.Selector(
        default="lru",
        objects=["lru", "lfu", "ttl"],
        doc="Who leaves first when memory is needed: least recently used, least often used, or next to expire.",
    )
    pins = param.List(
        [], item_type=str, doc="Models that are never unloaded to make room, nor for being idle."
    )
    load_wait_seconds = param.Number(
        60,
        bounds=(0, 3600),
        doc="How long a request waits for memory that other models use before it is a 503.",
    )
    warm_spare = param.Boolean(
        True, doc="Keep a process with everything imported, so that a load starts at once."
    )
    plan_context = param.Integer(
        4096, bounds=(1, 10_000_000), doc="Tokens of context that a model must have room for to be loaded."
    )
    plan_batch = param.Integer(
        1, bounds=(1, 1024), doc="So many answers of that context at once must have room."
    )
    health_interval_seconds = param.Number(
        30,
        bounds=(0.1, 3600),
        doc="How often each process is looked at from outside: memory, CPU, whether it is stopped.",
    )
    heartbeat_seconds = param.Number(
        5, bounds=(1, 3600), doc="A worker that gave no sign for this long is shown as not responding."
    )
    watchdog_seconds = param.Number(
        300,
        bounds=(0, 86400),
        doc="A worker with requests and no progress for this long is restarted; 0 is never.",
    )


POOL = tuple(name for name in PoolSettings.param if name not in param.Parameterized.param)
# Those that lie elsewhere in `Settings` and are edited beside them.
POOL_EDITABLE = (*POOL, "models", "load_timeout_seconds")


def fitting_pool(name: str, kind: param.Parameter, value: Any) -> Any:
    """A value as the setting holds it. Raises ValueError with what it must be."""
    if name == "model_ttls":
        return _fitting_ttls(value)
    if isinstance(kind, param.List):
        return _fitting_names(value)
    fitted = fitting(kind, value)
    if name == "memory_limit":
        parse_limit(fitted, recommended=1 << 40)
    return fitted


def _fitting_ttls(value: Any) -> dict[str, float]:
    known = isinstance(value, Mapping) and all(
        isinstance(name, str) and _is_ttl(ttl) for name, ttl in value.items()
    )
    if not known or len(value) > MOST_NAMES:
        raise ValueError(
            f"must be a table of seconds from 0 to {LONGEST}, by at most {MOST_NAMES} names of models"
        )
    return {name: float(ttl) for name, ttl in value.items()}


def _is_ttl(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LONGEST


def _fitting_names(value: Any) -> list[str]:
    names = isinstance(value, list | tuple) and all(
        isinstance(one, str) and one and one.isprintable() and len(one) <= 512 for one in value
    )
    if not names or len(value) > MOST_NAMES:
        raise ValueError(f"must be a list of at most {MOST_NAMES} names of models")
    return list(dict.fromkeys(value))
