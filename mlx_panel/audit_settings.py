"""The settings of the audit log: how long it is kept, what else it keeps, what tokens cost, what SQL may take. All live."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import param

from .analytics import Price
from .engine_settings import fitting

MOST_PRICES = 1000
DEAREST = 1_000_000.0  # US dollars per million tokens
PRICE_WORDS = (
    f'US dollars per million tokens as "input/output" or "input/output/cached", from 0 to {DEAREST:,.0f}'
)


class AuditSettings(param.Parameterized):
    """What `Settings` inherits."""

    audit_retention_days = param.Number(
        30, bounds=(0, 36500), doc="Rows older than this are deleted; 0 keeps them for ever."
    )
    audit_max_mb = param.Integer(
        2048,
        bounds=(0, 16_777_216),
        doc="The oldest rows are deleted when the log takes more than this, MiB; 0 is no limit.",
    )
    audit_block_hashes = param.Boolean(
        True,
        doc="Keep keyed hashes of prompts' blocks, from which traffic can be replayed without its words.",
    )
    audit_prices = param.Dict(
        {},
        doc="US dollars per million tokens, input/output or input/output/cached, by the name of a model or provider.",
    )
    sql_timeout_seconds = param.Number(10, bounds=(0.1, 3600), doc="Longest time an SQL query may take.")
    sql_memory_mb = param.Integer(512, bounds=(64, 1_048_576), doc="Memory an SQL query may take, MiB.")
    sql_max_rows = param.Integer(10_000, bounds=(1, 1_000_000), doc="Most rows that an SQL query gives.")

    @property
    def prices(self) -> dict[str, Price]:
        """`audit_prices` as numbers, by the name of a model or provider."""
        return {name: price(text) for name, text in self.audit_prices.items()}


AUDIT_EDITABLE = tuple(name for name in AuditSettings.param if name not in param.Parameterized.param)


def fitting_audit(name: str, kind: param.Parameter, value: Any) -> Any:
    """A value as the setting holds it. Raises ValueError with what it must be."""
    return _fitting_prices(value) if name == "audit_prices" else fitting(kind, value)


def _fitting_prices(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or len(value) > MOST_PRICES or not all(map(_is_name, value)):
        raise ValueError(
            f"must be a table of at most {MOST_PRICES} prices, by the names of models or providers"
        )
    for name, text in value.items():
        if not isinstance(text, str):
            raise ValueError(f"must hold for {name!r} {PRICE_WORDS}")
        try:
            price(text)
        except ValueError as error:
            raise ValueError(f"must hold for {name!r} {PRICE_WORDS}") from error
    return dict(value)


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) <= 512 and name.isprintable()


def price(text: str) -> Price:
    """`"2.5/10"` or `"2.5/10/0.25"` in numbers. Raises ValueError."""
    numbers = [float(part) for part in text.split("/")]
    if len(numbers) not in (2, 3) or not all(math.isfinite(one) and 0 <= one <= DEAREST for one in numbers):
        raise ValueError("not a price")
    return Price(*numbers)
