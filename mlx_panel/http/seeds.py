"""Every answer that is drawn has a seed, so that what came once can be asked for again."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec

from ..messages import GenerateRequest

DRAWN_BITS = 53  # what a number of JSON holds exactly everywhere


def seeded(requests: Sequence[GenerateRequest]) -> list[GenerateRequest]:
    """The requests of one body with the seeds they draw with: choice number i of them all has the first seed plus i.

    Where none was given one is drawn; a deterministic request begins at 0, and a greedy one needs none.
    """
    first = requests[0]
    if not first.sampling.temperature:
        return list(requests)
    seed = first.sampling.seed
    if seed is None:
        seed = 0 if first.deterministic else secrets.randbits(DRAWN_BITS)
    return [_with(request, seed + place * first.n) for place, request in enumerate(requests)]


def _with(request: GenerateRequest, seed: int) -> GenerateRequest:
    return msgspec.structs.replace(request, sampling=request.sampling.seeded(seed))
