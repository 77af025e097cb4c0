"""`python -m mlx_panel` is `mlx-panel`."""

from .cli import entry

entry()
