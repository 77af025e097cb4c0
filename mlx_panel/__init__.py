"""Serve local MLX models to any OpenAI client and watch what happens, live."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .engine.engine import Engine
    from .notebook import Server, connect

__version__ = "0.1.0"
__all__ = ["Engine", "Server", "__version__", "connect"]

# Imported when asked for: `import mlx_panel` costs a command line tool nothing.
_HOMES = {"Engine": ".engine.engine", "Server": ".notebook", "connect": ".notebook"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(shell: "InteractiveShell") -> None:
    """`%load_ext mlx_panel` in a notebook."""
    import_module(".notebook", __name__).load_magic(shell)
