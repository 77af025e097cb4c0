"""Making a model: in a hidden folder and a process of its own, which gets its name when all of it is there."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from ..errors import ImportRefused, InvalidParameter
from ..library import ConvertOrder, Finding, ImportOrder
from ..messages import LocalModel
from . import convert, errand
from .delete import occupied
from .gguf import own_name
from .report import amount
from .tasks import Job

LOOK_SECONDS = 0.5


async def converted(order: ConvertOrder, model: LocalModel, folder: Path, size: int, job: Job) -> None:
    """Have mlx-lm make `folder` of a model; `size` is about what its weights will take, bytes."""
    async with _draft(folder) as draft:
        looking = asyncio.create_task(_look(draft, size, job))
        try:
            work = errand.Errand(draft=str(draft), source=model.path, convert=order)
            await errand.run(work, lambda word: job.step(word.step))
        finally:
            looking.cancel()
        await _finish(draft, folder, job)


async def imported(order: ImportOrder, folder: Path, job: Job) -> None:
    """Make `folder` of a GGUF file."""
    async with _draft(folder) as draft:
        work = errand.Errand(draft=str(draft), gguf=order)
        await errand.run(work, lambda word: job.step(word.step, word.done, word.total, "bytes"))
        await _finish(draft / folder.name, folder, job)


async def found(order: ImportOrder) -> tuple[ImportOrder, int]:
    """The order with its file's place and its model's name, and the file's size in bytes. Raises InvalidParameter."""
    file = Path(order.file).expanduser().absolute()
    try:
        name = order.name or await asyncio.to_thread(own_name, file)
        size = (await asyncio.to_thread(file.stat)).st_size
    except ImportRefused as error:
        raise InvalidParameter(f"This file cannot be imported: {error}", field="file") from error
    except OSError as error:
        raise InvalidParameter(f"This file cannot be read: {error.strerror}.", field="file") from error
    return msgspec.structs.replace(order, file=str(file), name=name), size


@contextlib.asynccontextmanager
async def _draft(folder: Path) -> AsyncIterator[Path]:
    draft = convert.draft_of(folder)
    try:
        yield draft
    finally:
        await asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True)


async def _finish(draft: Path, folder: Path, job: Job) -> None:
    """It is complete. Raises Conflict where another model took the name meanwhile."""
    await asyncio.to_thread(convert.target, folder.parent, folder.name)
    await asyncio.to_thread(draft.rename, folder)
    size = await asyncio.to_thread(occupied, folder)
    job.found(Finding(step="files", text=f"{folder.name} takes {amount(size)} of disk.", value=size))
    job.say(result=folder.name)


async def _look(draft: Path, size: int, job: Job) -> None:
    """Tell how many bytes of a new model are written."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        written = await asyncio.to_thread(occupied, draft)
        if written:
            job.step("writing", min(written, size), size, "bytes")
