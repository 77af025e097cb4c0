"""The next token of every row of a batch, each row with its own `Sampling`, in one pass.

mlx-lm samples row by row unless all rows share one sampler object, and compiles a kernel anew for every temperature
and batch size, which on a CPU stops everything for a second. Here parameters are arrays, and nothing is compiled.
"""

from __future__ import annotations

import math

import mlx.core as mx

from ...errors import InvalidParameter
from ...messages import Sampling
from .contract import Draw, RowLogprobs, RowSpec, Sampler, Taken
from .device import DeviceSampler
from .host import HostSampler

__all__ = [
    "DeviceSampler",
    "Draw",
    "HostSampler",
    "RowLogprobs",
    "RowSpec",
    "Sampler",
    "Taken",
    "check",
    "sampler",
]


def check(sampling: Sampling) -> None:
    """Raise InvalidParameter, naming the field, for a value out of range. NaN is out of every range."""
    bias = sampling.logit_bias
    ranges = {
        "temperature": 0 <= sampling.temperature < math.inf,
        "top_p": 0 < sampling.top_p <= 1,
        "top_k": sampling.top_k >= 0,
        "min_p": 0 <= sampling.min_p <= 1,
        "repetition_penalty": 0.01 <= sampling.repetition_penalty <= 10,
        "repetition_context": sampling.repetition_context >= 0,
        "presence_penalty": -2 <= sampling.presence_penalty <= 2,
        "frequency_penalty": -2 <= sampling.frequency_penalty <= 2,
        "logit_bias": all(token >= 0 and -100 <= value <= 100 for token, value in bias.items()),
        "seed": sampling.seed is None or -(1 << 63) <= sampling.seed < 1 << 63,
    }
    wrong = next((field for field, right in ranges.items() if not right), None)
    if wrong is not None:
        raise InvalidParameter(f"{wrong} is out of range.", field=wrong)


def sampler(device_is_cpu: bool | None = None) -> Sampler:
    """The sampler for mlx's default device, or for the kind that is named.

    On a CPU numpy: the logits are in the same memory, and numpy's element-wise work is many times as fast as mlx's.
    On a GPU mlx: copying the logits to the CPU and waiting for them would stop the GPU between two forward passes.
    """
    if device_is_cpu is None:
        device_is_cpu = mx.default_device().type == mx.DeviceType.cpu
    return HostSampler() if device_is_cpu else DeviceSampler()
