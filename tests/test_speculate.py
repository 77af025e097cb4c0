"""Speculative decoding changes when tokens come, never which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from mlx_lm.models import gemma3_text, lfm2, llama

from mlx_panel.engine import kv, loader
from mlx_panel.engine.gain import Gain
from mlx_panel.engine.speculate import (
    Drafter,
    ModelDrafter,
    NgramDrafter,
    SpeculativeStep,
    load_draft,
    verify,
)
from mlx_panel.errors import ModelLoadFailed

from .models import randomized, tiny_model
from .test_kv import COMMON, GEMMA, LFM2, VOCABULARY, words

PROMPT = words(30)
WORDS = st.lists(st.integers(0, 3), max_size=40)


def build(kind: Any, config: dict[str, Any], seed: int = 3) -> Any:
    return randomized(kind.Model(kind.ModelArgs.from_dict(config)), seed)


@pytest.fixture(scope="module")
def model() -> Any:
    return build(llama, COMMON | {"model_type": "llama"})


@pytest.fixture(scope="module")
def windowed() -> Any:
    return build(gemma3_text, GEMMA | {"sliding_window": 48})


class Oracle:
    """Knows how the answer goes on, and errs at every `wrong`-th token of it."""

    def __init__(self, answer: Sequence[int], wrong: int = 0):
        self.sequence, self.wrong = [*PROMPT, *answer], wrong

    def draft(self, tokens: Sequence[int], n: int) -> list[int]:
        places = range(len(tokens), min(len(tokens) + n, len(self.sequence)))
        return [(self.sequence[at] + (self.wrong > 0 and at % self.wrong == 0)) % VOCABULARY for at in places]

    def close(self) -> None:
        pass


def likeliest(logits: mx.array) -> int:
    return int(mx.argmax(logits))


def drawn(seed: int) -> Callable[[mx.array], int]:
    """A sampler whose draws advance by one a call."""
    generator = np.random.default_rng(seed)

    def choose(logits: mx.array) -> int:
        return int(np.argmax(np.array(logits) / 2 + generator.gumbel(size=logits.shape[-1])))

    return choose


def prefilled(model: Any, kv_bits: int = 0) -> list[Any]:
    """Caches that hold the prompt but its last token."""
    caches = kv.make_caches(model, kv_bits=kv_bits, kv_group_size=32)
    model(mx.array([PROMPT[:-1]]), cache=caches)
    return caches


def plain(model: Any, caches: list[Any], choose: Callable[[mx.array], int], tokens: int) -> list[int]:
    """One token at a time."""
    answer: list[int] = []
    while len(answer) < tokens:
        last = (PROMPT + answer)[-1]
        answer.append(choose(model(mx.array([[last]]), cache=caches)[0, -1]))
    return answer


def speculative(step: SpeculativeStep, tokens: int, n: int = 4) -> tuple[list[int], list[int]]:
    """The answer, and how many tokens each pass gave."""
    answer: list[int] = []
    sizes: list[int] = []
    while len(answer) < tokens:
        emitted = step([*PROMPT, *answer], n, tokens - len(answer)).tokens
        answer += emitted
        sizes.append(len(emitted))
    return answer, sizes


def held(caches: list[Any]) -> list[np.ndarray]:
    """The keys and values of a row's caches."""
    stores = [store for cache in caches for store in cache.keys_and_values()]
    return [np.array(mx.dequantize(*s, group_size=32, bits=8) if isinstance(s, tuple) else s) for s in stores]


@pytest.mark.parametrize("kv_bits", [0, 8])
@pytest.mark.parametrize("wrong", [0, 1, 3])
@pytest.mark.parametrize("sampler", ["greedy", "seeded"])
def test_the_answer_and_the_caches_are_those_without_drafts(
    model: Any, kv_bits: int, wrong: int, sampler: str
) -> None:
    def choose() -> Callable[[mx.array], int]:
        return likeliest if sampler == "greedy" else drawn(7)

    alone, caches = prefilled(model, kv_bits), prefilled(model, kv_bits)
    expected = plain(model, alone, choose(), 21)
    step = SpeculativeStep(model, caches, Oracle(expected, wrong), choose())
    answer, sizes = speculative(step, 21)
    assert answer == expected
    assert len(sizes) == {0: 5, 1: 21, 3: 8}[wrong]
    assert [cache.offset for cache in caches] == [cache.offset for cache in alone]
    for mine, theirs in zip(held(caches), held(alone), strict=True):
        # Quantised, a difference in the last digit of a number can become one of a whole step.
        np.testing.assert_allclose(mine, theirs, atol=0.05 if kv_bits else 1e-4)


def test_one_row_of_a_batch_speculates_too(model: Any) -> None:
    expected = plain(model, prefilled(model), likeliest, 20)
    batch = kv.merge([prefilled(model)])
    answer, sizes = speculative(SpeculativeStep(model, batch, Oracle(expected, 5), likeliest), 20)
    assert answer == expected
    assert len(sizes) < 10


@pytest.mark.parametrize("batched", [False, True])
def test_a_full_window_takes_nothing_back(windowed: Any, batched: bool) -> None:
    """Up to the window drafts are taken, past it one token comes at a time."""
    expected = plain(windowed, prefilled(windowed), likeliest, 40)
    caches = prefilled(windowed)
    caches = kv.merge([caches]) if batched else caches
    step = SpeculativeStep(windowed, caches, Oracle(expected, 4), likeliest)
    answer, sizes = speculative(step, 40)
    assert answer == expected
    assert max(sizes[:4]) > 1
    assert set(sizes[-20:]) == {1}


def test_a_state_takes_nothing_back() -> None:
    hybrid = build(lfm2, COMMON | {"model_type": "lfm2"} | LFM2)
    expected = plain(hybrid, prefilled(hybrid), likeliest, 10)
    step = SpeculativeStep(hybrid, prefilled(hybrid), Oracle(expected), likeliest)
    assert speculative(step, 10) == (expected, [1] * 10)


def test_it_ends_where_it_has_to(model: Any) -> None:
    expected = plain(model, prefilled(model), likeliest, 12)
    end = expected[2]
    step = SpeculativeStep(model, prefilled(model), Oracle(expected), likeliest, {end})
    first = step(PROMPT, 8, 100)
    assert first.tokens == expected[: expected.index(end) + 1], "nothing follows an end of sequence"
    caches = prefilled(model)
    step = SpeculativeStep(model, caches, Oracle(expected), likeliest)
    assert step(PROMPT, 8, 3) == (expected[:3], 2, 2), "a draft longer than the room is cut"
    assert step([*PROMPT, *expected[:3]], 8, 1).tokens == expected[3:4]
    assert caches[0].offset == len(PROMPT) + 3


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), min_size=7, max_size=7))
def test_verification_draws_once_a_token_and_stops_at_the_first_difference(
    draft: list[int], own: list[int]
) -> None:
    places: list[int] = []

    def choose(row: mx.array) -> int:
        places.append(int(row[0]))
        return own[places[-1]]

    emitted = verify(mx.arange(len(draft) + 1)[:, None], draft, choose, {2})
    agreed = next(
        (n for n, (a, b) in enumerate(zip(draft, own, strict=False)) if a != b or b == 2), len(draft)
    )
    assert emitted == own[: agreed + 1]
    assert places == list(range(len(emitted)))


# --- drafters ----------------------------------------------------------------------------------------------------


def looked_up(tokens: list[int], n: int) -> list[int]:
    """Prompt lookup by the book: search from the end for the longest last n-gram, and copy on."""
    for size in (4, 3, 2):
        for at in range(len(tokens) - 1, size - 1, -1):
            if tokens[at - size : at] == tokens[-size:]:
                copied = list(tokens)
                for place in range(n):
                    copied.append(copied[at + place])
                return copied[len(tokens) :]
    return []


@settings(deadline=None)
@given(WORDS, st.lists(st.tuples(WORDS, st.integers(0, 9)), max_size=4))
def test_ngrams_are_found_as_by_a_search(prompt: list[int], more: list[tuple[list[int], int]]) -> None:
    drafter, tokens = NgramDrafter(), list(prompt)
    for added, n in more:
        tokens += added
        assert drafter.draft(tokens, n) == looked_up(tokens, n)


def test_a_text_that_repeats_comes_in_fewer_passes(model: Any) -> None:
    cycle = words(7, seed=4)

    def reciting(logits: mx.array) -> int:
        spoken.append(cycle[len(spoken) % len(cycle)])
        return spoken[-1]

    spoken: list[int] = []
    answer, sizes = speculative(SpeculativeStep(model, prefilled(model), NgramDrafter(), reciting), 70)
    assert answer == cycle * 10
    # The first round is new, afterwards each pass gives the draft and one more.
    assert len(sizes) <= 9 + -(-61 // 5)


@pytest.mark.parametrize("kind", ["itself", "another", "windowed"])
def test_a_draft_model_guesses_what_it_would_say(model: Any, windowed: Any, kind: str) -> None:
    other = {
        "itself": model,
        "another": build(llama, COMMON | {"model_type": "llama"}, 9),
        "windowed": windowed,
    }
    drafter: Drafter = ModelDrafter(other[kind], VOCABULARY, prefill_step=8)
    expected = plain(model, prefilled(model), likeliest, 40)
    answer, sizes = speculative(SpeculativeStep(model, prefilled(model), drafter, likeliest), 40)
    assert answer == expected
    if kind == "itself":
        assert sizes == [5] * 8
    # Whatever was accepted before, its guesses are those of a fresh look at the text.
    tokens = PROMPT + expected[:10]
    lone = ModelDrafter(other[kind], VOCABULARY)
    walked = ModelDrafter(other[kind], VOCABULARY)
    for length in (20, 24, 25, 33, 40):
        walked.draft(tokens[:length], length % 4)
    assert walked.draft(tokens, 5) == lone.draft(tokens, 5)
    lone.close()


def test_a_draft_model_never_guesses_padding(model: Any) -> None:
    drafted = ModelDrafter(model, 5).draft(PROMPT, 8)
    assert len(drafted) == 8
    assert max(drafted) < 5


def test_a_draft_model_has_the_models_vocabulary(tmp_path: Path) -> None:
    tokenizer = loader.load(tiny_model(tmp_path / "big")).tokenizer
    assert load_draft(tiny_model(tmp_path / "small", seed=1, layers=1), tokenizer) is not None
    other = tiny_model(tmp_path / "other")
    text = (other / "tokenizer.json").read_text(encoding="utf-8")
    (other / "tokenizer.json").write_text(text.replace("<think>", "<other>"), encoding="utf-8")
    with pytest.raises(ModelLoadFailed, match="vocabulary"):
        load_draft(other, tokenizer)


# --- whether it pays ---------------------------------------------------------------------------------------------


class Machine:
    """Passes that cost what they cost on some machine: `base`, and more for each token drafted."""

    def __init__(self, gain: Gain, base: float, each: float):
        self.gain, self.base, self.each = gain, base, each
        self.seconds = 0.0
        self.tokens = self.drafts = 0

    def run(self, passes: int, accepts: Callable[[], bool]) -> None:
        for _ in range(passes):
            n = self.gain.length()
            emitted = 1
            while emitted <= n and accepts():
                emitted += 1
            seconds = 1 + (n > 0) * self.base + n * self.each
            self.gain.record(n, emitted, seconds)
            self.seconds += seconds
            self.tokens += emitted
            self.drafts += n > 0


BASES = st.floats(0, 2)
EACHES = st.floats(0.001, 1)


@given(BASES, EACHES)
@settings(deadline=None)
def test_hopeless_drafting_ends(base: float, each: float) -> None:
    machine = Machine(Gain(), base, each)
    machine.run(128, lambda: False)
    before = machine.drafts
    assert before <= 9
    machine.run(1280, lambda: False)
    assert machine.drafts - before <= 11
    machine.gain.restart()
    machine.run(100, lambda: False)
    assert machine.drafts - before <= 20


@given(st.floats(0, 0.5), st.floats(0.001, 0.15))
@settings(deadline=None)
def test_drafts_that_are_right_go_on(base: float, each: float) -> None:
    machine = Machine(Gain(), base, each)
    machine.run(50, lambda: True)
    before = machine.drafts
    machine.run(100, lambda: True)
    assert machine.drafts - before >= 95
    # Plain decoding would take a second for each token.
    assert machine.seconds < machine.tokens / 2


@given(BASES, EACHES, st.floats(0, 1), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_it_costs_little_at_the_worst(base: float, each: float, chance: float, random: Any) -> None:
    machine = Machine(Gain(), base, each)
    machine.run(600, lambda: random.random() < chance)
    # A second a token is plain decoding; the first tries are paid once.
    assert machine.seconds <= 1.1 * machine.tokens + 12 * (base + 4 * each)


def test_it_comes_back_when_the_text_begins_to_repeat() -> None:
    machine = Machine(Gain(), 0.3, 0.05)
    machine.run(1000, lambda: False)
    assert machine.gain.length() == 0
    machine.run(200, lambda: True)
    assert machine.gain.length() > 0


def test_the_same_records_give_the_same_lengths() -> None:
    random = np.random.default_rng(5)
    gains = Gain(), Gain()
    for _ in range(300):
        n, other = (gain.length() for gain in gains)
        assert n == other
        emitted, seconds = int(random.integers(1, n + 2)), float(random.uniform(0.5, 2))
        for gain in gains:
            gain.record(n, emitted, seconds)


def test_one_slow_pass_is_no_news() -> None:
    gain = Gain()
    machine = Machine(gain, 0.1, 0.01)
    machine.run(100, lambda: True)
    n = gain.length()
    gain.record(n, n + 1, 1000.0)
    assert gain.length() == n > 0
