"""A process of its own for one SELECT that somebody typed: `python -m mlx_panel.sandbox`, started by `audit/sql_child.py`.

It imports nothing of the house but this package, so that it starts in a tenth of a second and holds nothing worth
taking. What it may do shrinks before the SQL is read, first in DuckDB (no files, network, extensions, settings; a
read-only transaction), then by the operating system (`limits.py`).
"""
