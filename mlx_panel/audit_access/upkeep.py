"""`mlx-panel audit generate` and `shrink`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..audit.database import Database
from ..audit.generate import generate
from ..errors import AuditError
from ..hub.cli_text import progress, size


def made_up(args: argparse.Namespace) -> int:
    """A file of made-up traffic."""
    path = Path(args.path).expanduser()
    with progress(steps=True) as bars:
        generate(
            path,
            args.rows,
            days=args.days,
            seed=args.seed,
            progress=lambda done, rows: bars("Rows", done, rows),
        )
    print(
        f"{path}: {args.rows:,} requests, {size(path.stat().st_size)}. Look at them with: mlx-panel audit stats --file {path}"
    )
    return 0


def shrink(path: Path) -> int:
    """Write a file anew that is mostly free space. Raises AuditLocked while a server has it."""
    if not path.exists():
        raise AuditError(f"There is no audit log at {path}.")
    database = Database(path)
    database.open(shrink=True)
    database.close()
    done = database.shrunk
    print(
        f"{path}: {size(done.before)} before, {size(done.after)} now." if done
        else f"{path}: less than half of it is free, so it stays as it is ({size(path.stat().st_size)})."
    )  # fmt: skip
    return 0
