"""What is told of a request that ends early, and why one cannot go on. No mlx."""

from __future__ import annotations

from ..errors import GenerationFailed, GrammarTooComplex, MlxPanelError
from ..messages import Failed
from .guide import stuck
from .intake import field_of
from .row import Row


def refused(row: Row, error: MlxPanelError) -> Failed:
    """A request that cannot be taken on after all."""
    numbers = {name: int(number) for name, number in error.numbers.items()}
    return Failed(row.id, error.code, row.usage(), numbers, error.field or "")


def failed(row: Row, error: Exception) -> Failed:
    """A request that failed alone."""
    code = error.code if isinstance(error, GrammarTooComplex) else GenerationFailed.code
    return Failed(row.id, code, row.usage(), field=getattr(error, "field", None) or "")


def unusable(row: Row) -> Exception:
    """Why no token of a row's distribution could be drawn."""
    if row.guide is not None and stuck(row.guide):
        return GrammarTooComplex(field=field_of(row.request))
    return FloatingPointError("the model's output is not a number")
