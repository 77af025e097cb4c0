"""The fields that OpenAI's chat and text completions share, and those that this server adds to both.

Source: the OpenAI API document, `CreateChatCompletionRequest` and `CreateCompletionRequest`.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from ..errors import InvalidParameter
from ..messages import Sampling, Structure
from .openai_format import Format, Held, structure
from .preset_use import SAID

MAX_STOPS = 16
MAX_BIASES = 1024
MAX_CHOICES = 128
TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,8}")
# Fields about the caller, or about how OpenAI's own machines are run, rather than about the answer.
NO_EFFECT = frozenset(
    {
        "user",
        "metadata",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "service_tier",
    }
)
# Other servers' names for what has a name here: whoever sends one relies on it.
OTHER_NAMES = {
    "guided_json": "response_format",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}

Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
CountOrZero = Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]
Choices = Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)]
Alternatives = Annotated[int, msgspec.Meta(ge=0, le=20)]
Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
Repetition = Annotated[float, msgspec.Meta(ge=0.01, le=10)]  # a logit divided by less overflows
Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_progress: bool | None = None
    include_obfuscation: bool | None = None


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """Fields both endpoints take; null means the default."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    n: Choices | None = None
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    top_k: CountOrZero | None = None
    min_p: Fraction | None = None
    max_tokens: CountOrZero | None = None
    min_tokens: CountOrZero | None = None
    ignore_eos: bool | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: Seed | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Repetition | None = None
    repetition_context_size: CountOrZero | None = None
    logit_bias: dict[str, Bias] | None = None
    deterministic: bool | None = None
    response_format: Format | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    structured_outputs: Held | None = None

    def said(self) -> frozenset[str]:
        """Those values of `preset_use.SAID` that the body sets; `top_p` 0 also says that the answer is greedy."""
        given = {name for name in SAID if getattr(self, name) is not None}
        return frozenset(given | ({"temperature"} if self.top_p == 0 else set()))

    def sampling(self) -> Sampling:
        """OpenAI allows `top_p` 0: nothing but the likeliest token is left then, which is greedy."""
        temperature = 1.0 if self.temperature is None else self.temperature
        greedy = temperature == 0 or self.top_p == 0
        return Sampling(
            temperature=0.0 if greedy else temperature,
            top_p=self.top_p or 1.0,
            top_k=self.top_k or 0,
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            repetition_context=self.repetition_context_size or 0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=self.biases(),
            seed=self.seed,
        )

    def biases(self) -> dict[int, float]:
        """By token id. Whether the model has such tokens is not known here."""
        given = self.logit_bias or {}
        if len(given) > MAX_BIASES or not all(map(TOKEN_ID.fullmatch, given)):
            raise InvalidParameter(
                f"'logit_bias' takes up to {MAX_BIASES} token ids, each with a number from -100 to 100.",
                field="logit_bias",
            )
        return {int(token): bias for token, bias in given.items()}

    def stops(self) -> tuple[str, ...]:
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stops) > MAX_STOPS or not all(stops):
            raise InvalidParameter(
                f"'stop' takes up to {MAX_STOPS} strings, none of them empty.", field="stop"
            )
        return stops

    def structure(self) -> tuple[Structure | None, str]:
        """What the answer is held to, and the field that says so. Raises BadRequest's children."""
        return structure(self.response_format, self.regex, self.choice, self.grammar, self.structured_outputs)

    def names(self, held: str) -> dict[str, str]:
        """What a worker calls the field that the answer is held to, and what it is called in this body."""
        return dict.fromkeys(("response_format", "regex", "choice", "grammar"), held) if held else {}

    def least(self, most: int | None) -> int:
        """`min_tokens`, which the most tokens must allow."""
        least = self.min_tokens or 0
        if most is not None and least > most:
            raise InvalidParameter("'min_tokens' is more than the answer may have.", field="min_tokens")
        return least

    def without_effect(self) -> list[str]:
        """Obfuscation pads chunks against eavesdroppers on the way; there is none on one machine."""
        given = self.stream_options is not None and self.stream_options.include_obfuscation is not None
        described = self.response_format is not None and self.response_format.described
        return ["stream_options.include_obfuscation"] * given + [
            "response_format.json_schema.description"
        ] * described

    def wants_usage(self) -> bool:
        if self.stream_options is not None and not self.stream:
            raise InvalidParameter(
                "'stream_options' is only allowed when 'stream' is true.", field="stream_options"
            )
        return bool(self.stream_options and self.stream_options.include_usage)

    def wants_progress(self) -> bool:
        """Whether a stream tells how far it is before its first token."""
        return bool(self.stream_options and self.stream_options.include_progress)
