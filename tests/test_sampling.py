"""The sampler against mlx-lm's own: the same distributions, the same changed logits, each row for itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from mlx_lm.sample_utils import (
    apply_min_p,
    apply_top_k,
    apply_top_p,
    make_logits_processors,
    make_sampler,
)

from mlx_panel.engine.guide import GuideLost, Mask, only
from mlx_panel.engine.sampling import DeviceSampler, HostSampler, RowSpec, Sampler, Taken, check, sampler
from mlx_panel.errors import InvalidParameter
from mlx_panel.messages import Sampling

FORMS = pytest.mark.parametrize("form", [HostSampler, DeviceSampler])
VOCAB = 64


def logits_of(rows: int, vocab: int = VOCAB, scale: float = 1.5, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (rows, vocab)).astype(np.float32)


def expected(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The distribution mlx-lm draws from, by its own functions in its own order."""
    scores = mx.array(logits)[None]
    scores = scores - mx.logsumexp(scores, axis=-1, keepdims=True)
    if sampling.top_p < 1:
        scores = apply_top_p(scores, sampling.top_p)
    if sampling.min_p:
        scores = apply_min_p(scores, sampling.min_p)
    if sampling.top_k:
        scores = apply_top_k(scores, sampling.top_k)
    return np.array(mx.softmax(scores / sampling.temperature, axis=-1))[0]


def draws(
    form: type[Any], logits: np.ndarray | mx.array, sampling: Sampling, rows: int = 1000, steps: int = 20
) -> np.ndarray:
    """Tokens of rows that differ in nothing but their seed, all on the same logits."""
    made = form()
    made.join([RowSpec(with_seed(sampling, row)) for row in range(rows)])
    batch = mx.broadcast_to(mx.array(logits)[None], (rows, len(logits)))
    return np.concatenate([made.begin(batch).take().ids for _ in range(steps)])


def with_seed(sampling: Sampling, seed: int | None) -> Sampling:
    return Sampling(**{name: getattr(sampling, name) for name in sampling.__struct_fields__} | {"seed": seed})


def surprise(counts: np.ndarray, shares: np.ndarray) -> float:
    """How many standard deviations Pearson's chi-square is above its mean (Wilson and Hilferty's approximation)."""
    assert not counts[shares == 0].any()
    order = np.argsort(shares)[np.count_nonzero(shares == 0) :]
    counts, shares = counts[order], shares[order] * counts.sum()
    # Bins of fewer than ten expected draws are joined.
    bins = ((np.cumsum(shares) - shares) // 10).astype(int)
    starts = np.unique(bins, return_index=True)[1]
    seen, wanted = np.add.reduceat(counts, starts), np.add.reduceat(shares, starts)
    free = len(starts) - 1
    if free == 0:
        return 0
    ratio = (((seen - wanted) ** 2 / wanted).sum() / free) ** (1 / 3)
    return float((ratio - (1 - 2 / (9 * free))) / math.sqrt(2 / (9 * free)))


SHAPES = [
    Sampling(),
    Sampling(temperature=0.7),
    Sampling(temperature=1.8),
    Sampling(top_p=0.9),
    Sampling(top_p=0.3, temperature=0.7),
    Sampling(top_p=0.05, temperature=3),
    Sampling(top_k=5),
    Sampling(top_k=40, temperature=0.5),
    Sampling(min_p=0.2),
    Sampling(min_p=0.05, temperature=1.5),
    Sampling(top_p=0.8, min_p=0.1, top_k=20, temperature=0.9),
    Sampling(top_p=0.6, top_k=30, temperature=2),
    Sampling(top_p=0.95, min_p=0.02, temperature=1.3),
]


@FORMS
@pytest.mark.parametrize("sampling", SHAPES, ids=str)
def test_draws_have_the_distribution_of_mlx_lm(form: type[Any], sampling: Sampling) -> None:
    logits = logits_of(1)[0]
    counts = np.bincount(draws(form, logits, sampling), minlength=VOCAB)
    assert surprise(counts, expected(logits, sampling)) < 4


@FORMS
def test_draws_look_like_those_that_mlx_lm_makes(form: type[Any]) -> None:
    logits = logits_of(1)[0]
    mx.random.seed(0)
    theirs = make_sampler(temp=0.8, top_p=0.9, min_p=0.02, top_k=30)
    scores = mx.array(logits) - mx.logsumexp(mx.array(logits))
    other = np.bincount(np.array(theirs(mx.broadcast_to(scores, (20_000, VOCAB)))), minlength=VOCAB)
    ours = draws(form, logits, Sampling(temperature=0.8, top_p=0.9, min_p=0.02, top_k=30))
    both = np.bincount(ours, minlength=VOCAB) + other
    assert surprise(other, both / both.sum()) < 4


@FORMS
def test_a_nucleus_of_many_thousand_tokens_is_drawn_from_whole(form: type[Any]) -> None:
    vocab, rows, steps = (50_001, 32, 100) if form is HostSampler else (5_001, 16, 30)
    logits = logits_of(1, vocab, scale=0.5)[0]
    sampling = Sampling(top_p=0.9, temperature=0.8)
    shares = expected(logits, sampling)
    assert np.count_nonzero(shares) > vocab / 2
    counts = np.bincount(draws(form, logits, sampling, rows, steps), minlength=vocab)
    assert surprise(counts, shares) < 4


def test_a_row_that_is_refused_again_and_again_is_sorted_out() -> None:
    """A nucleus that few draws hit: the fallback behind the last try has the right distribution too."""
    logits = logits_of(1, 3_000, scale=0.3)[0]
    sampling = Sampling(top_p=0.003, temperature=1.5)
    counts = np.bincount(draws(HostSampler, logits, sampling, 400, 15), minlength=3_000)
    shares = expected(logits, sampling)
    assert 2 < np.count_nonzero(shares) < 10
    assert surprise(counts, shares) < 4


@FORMS
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16], ids=str)
@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(top_p=0.7, temperature=0.6), Sampling(top_k=9)], ids=str
)
def test_half_precision_logits_mean_what_they_say(
    form: type[Any], dtype: mx.Dtype, sampling: Sampling
) -> None:
    logits = mx.array(logits_of(1)[0] * 4).astype(dtype)
    counts = np.bincount(draws(form, logits, sampling, 500, 10), minlength=VOCAB)
    assert surprise(counts, expected(np.array(logits.astype(mx.float32)), sampling)) < 4


steps_of_a_quarter = st.integers(-12, 12).map(lambda number: number / 4)


@FORMS
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    logits=st.lists(steps_of_a_quarter, min_size=8, max_size=24),
    top_p=st.sampled_from([1.0, 0.93, 0.51, 0.13]),
    top_k=st.integers(0, 24).filter(lambda number: number != 1),
    min_p=st.sampled_from([0.0, 0.03, 0.3, 1.0]),
)
@example(logits=[0.5] * 3 + [1.0] * 4 + [0.5] * 5, top_p=1.0, top_k=7, min_p=0.0)
@example(logits=[0.5] * 3 + [1.0] * 4 + [0.5] * 5, top_p=0.51, top_k=6, min_p=0.03)
@example(logits=[0.0] * 9, top_p=0.13, top_k=0, min_p=1.0)
def test_what_may_be_drawn_is_what_mlx_lm_leaves(
    form: type[Any], logits: list[float], top_p: float, top_k: int, min_p: float
) -> None:
    """Also where many tokens tie: all at the end of `top_p`, the lower ids at the end of `top_k`."""
    values = np.array(logits, np.float32)
    chances = np.exp(values) / np.exp(values).sum()
    above = np.array([chances[values > value].sum() for value in values])
    assume((abs(above - top_p) > 1e-4).all())
    shares = expected(values, Sampling(top_p=top_p, min_p=min_p))
    allowed = {int(token) for token in np.argsort(-values, kind="stable") if shares[token]}
    if top_k:
        allowed &= {int(token) for token in np.argsort(-values, kind="stable")[:top_k]}
    # So hot that every allowed token is about as likely as any other.
    drawn = draws(form, values, Sampling(1000.0, top_p, top_k, min_p), rows=125, steps=4)
    assert set(drawn.tolist()) == allowed


MIXED = [
    Sampling(temperature=0),
    Sampling(seed=1),
    Sampling(seed=2, temperature=0.6, top_p=0.7),
    Sampling(seed=3, top_k=7),
    Sampling(seed=4, top_p=0.5, repetition_penalty=1.5, repetition_context=4),
    Sampling(temperature=0, frequency_penalty=1.5),
    Sampling(seed=5, min_p=0.1, logit_bias={3: 2.0, 900: 1.0}),
    Sampling(seed=6, top_p=0.8, top_k=20, presence_penalty=2),
    Sampling(seed=7, temperature=1.4),
    Sampling(seed=8, temperature=1.4, top_p=0.2),
]


def specs_of(samplings: Sequence[Sampling]) -> list[RowSpec]:
    return [RowSpec(sampling, prompt=(1, 2, 3, row)) for row, sampling in enumerate(samplings)]


def answer(form: type[Any], spec: RowSpec, logits: np.ndarray) -> list[int]:
    """The tokens of one row that is alone; `logits` (steps, vocabulary)."""
    alone = form()
    alone.join([spec])
    return [alone.begin(mx.array(step[None])).take().ids[0] for step in logits]


@FORMS
def test_a_row_draws_the_same_whoever_is_beside_it(form: type[Any]) -> None:
    steps = 45  # More than a row's numbers are made ahead.
    logits = np.stack([logits_of(len(MIXED), 300, seed=step) for step in range(steps)])
    specs = specs_of(MIXED)
    together = form()
    present: list[int] = []
    told: dict[int, list[int]] = {row: [] for row in range(len(MIXED))}
    for step in range(steps):
        if step % 3 == 0 and len(present) + step // 3 < 2 * len(MIXED):
            coming = [row for row in range(len(MIXED)) if row not in present and not told[row]][:2]
            together.join([specs[row] for row in coming])
            present += coming
        if not present:
            break
        # A row's logits are those of its own step.
        rows = np.stack([logits[len(told[row]), row] for row in present])
        draw = together.begin(mx.array(rows))
        here = list(present)
        if step % 7 == 6:
            # One leaves before the draw is taken.
            together.keep([place for place in range(len(present)) if place != 1])
            del present[1]
        for row, token in zip(here, draw.take().ids, strict=True):
            told[row].append(token)
    assert all(told.values())
    for row, tokens in told.items():
        assert tokens == answer(form, specs[row], logits[: len(tokens), row]), MIXED[row]


@FORMS
@pytest.mark.parametrize("sampling", MIXED, ids=str)
def test_a_resumed_row_goes_on_as_if_it_had_never_stopped(form: type[Any], sampling: Sampling) -> None:
    logits = logits_of(45, 100)
    whole = answer(form, RowSpec(sampling, (5, 6, 7)), logits)
    resumed = answer(form, RowSpec(sampling, (5, 6, 7), whole[:9]), logits[9:])
    assert resumed == whole[9:]


@FORMS
def test_seeds_say_which_tokens_are_drawn(form: type[Any]) -> None:
    logits = np.repeat(logits_of(1), 20, axis=0)

    def told(seed: int | None) -> list[int]:
        return answer(form, RowSpec(Sampling(seed=seed)), logits)

    assert told(11) == told(11)
    assert told(11) != told(12)
    assert told((1 << 63) - 1) != told(0)
    assert told(-1) == told(-1) != told(1)
    assert told(None) != told(None)


def test_both_forms_draw_alike_from_a_whole_vocabulary() -> None:
    logits = logits_of(30, 1_000)
    for sampling in (Sampling(seed=1), Sampling(seed=2, temperature=0.7)):
        spec = RowSpec(sampling)
        assert answer(HostSampler, spec, logits) == answer(DeviceSampler, spec, logits)


@FORMS
@pytest.mark.parametrize("rows", [1, 4, 5, 30])
def test_greedy_rows_take_the_likeliest_and_the_first_of_equals(form: type[Any], rows: int) -> None:
    logits = np.round(logits_of(rows, 500))
    made = form()
    greedy = [Sampling(temperature=0), Sampling(temperature=5e-4), Sampling(top_k=1)]
    made.join([RowSpec(greedy[row % 3]) for row in range(rows)])
    draw = made.begin(mx.array(logits))
    assert draw.inputs().tolist() == draw.take().ids == logits.argmax(-1).tolist()


def theirs(logits: np.ndarray, spec: RowSpec, told: list[int]) -> np.ndarray:
    """The logits as mlx-lm's processors change them."""
    sampling = spec.sampling
    changed = mx.array(logits)[None]
    past = mx.array([*spec.prompt, *told])
    first = make_logits_processors(
        sampling.logit_bias or None, sampling.repetition_penalty, sampling.repetition_context
    )
    for process in first:
        changed = process(past, changed)
    for process in make_logits_processors(
        presence_penalty=sampling.presence_penalty,
        presence_context_size=1000,
        frequency_penalty=sampling.frequency_penalty,
        frequency_context_size=1000,
    ):
        changed = process(mx.array(told), changed) if told else changed
    return np.array(changed)[0]


penalised = st.builds(
    Sampling,
    temperature=st.just(0.0),
    repetition_penalty=st.sampled_from([1.0, 1.3, 5.0, 0.5]),
    repetition_context=st.sampled_from([0, 1, 2, 5, 400]),
    presence_penalty=st.sampled_from([0.0, 1.0, -0.5]),
    frequency_penalty=st.sampled_from([0.0, 0.4, -0.2, 2.0]),
    logit_bias=st.dictionaries(st.integers(0, 9), st.sampled_from([-3.0, -0.5, 1.0]), max_size=3),
)


@FORMS
@settings(max_examples=20, deadline=None, derandomize=True)
@given(samplings=st.lists(penalised, min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_penalties_and_bias_change_the_logits_as_mlx_lm_does(
    form: type[Any], samplings: list[Sampling], seed: int
) -> None:
    logits = [logits_of(len(samplings), 10, seed=seed + step) for step in range(14)]
    specs = [RowSpec(sampling, (1, 1, 4, row)) for row, sampling in enumerate(samplings)]
    made = form()
    made.join(specs)
    told: list[list[int]] = [[] for _ in specs]
    for step in logits:
        wanted = [theirs(row, spec, past) for row, spec, past in zip(step, specs, told, strict=True)]
        for row, token in enumerate(made.begin(mx.array(step)).take().ids):
            assert wanted[row][token] == pytest.approx(wanted[row].max(), abs=1e-5), samplings[row]
            told[row].append(token)


@FORMS
def test_penalties_shape_the_draws_too(form: type[Any]) -> None:
    logits = logits_of(1)[0]
    sampling = Sampling(0.8, top_p=0.8, repetition_penalty=1.7, logit_bias={7: 3.0, 8: -100.0})
    spec = RowSpec(sampling, (1, 2, 3))
    made = form()
    made.join([spec._replace(sampling=with_seed(sampling, seed)) for seed in range(5_000)])
    tokens = made.begin(mx.broadcast_to(mx.array(logits), (5_000, VOCAB))).take().ids
    shares = expected(theirs(logits, spec, []), Sampling(0.8, top_p=0.8))
    assert surprise(np.bincount(tokens, minlength=VOCAB), shares) < 4


@FORMS
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
def test_log_probabilities_are_the_models_own_and_only_for_rows_that_ask(
    form: type[Any], dtype: mx.Dtype
) -> None:
    logits = mx.array(logits_of(4)).astype(dtype)
    made = form()
    biased = Sampling(temperature=0.5, logit_bias={9: 100.0}, seed=1)
    made.join(
        [
            RowSpec(Sampling()),
            RowSpec(biased, logprobs=5),
            RowSpec(Sampling(), logprobs=0),
            RowSpec(Sampling()),
        ]
    )
    taken = made.begin(logits).take()
    assert taken.ids[1] == 9
    assert set(taken.logprobs) == {1, 2}
    values = np.array(logits.astype(mx.float32)).astype(np.float64)
    values -= np.log(np.exp(values).sum(-1, keepdims=True))
    assert taken.logprobs[1].logprob == pytest.approx(values[1, 9], abs=1e-5)
    assert taken.logprobs[2].logprob == pytest.approx(values[2, taken.ids[2]], abs=1e-5)
    assert taken.logprobs[2].top == ()
    likeliest = np.argsort(-values[1], kind="stable")[:5]
    assert [token for token, _ in taken.logprobs[1].top] == likeliest.tolist()
    assert [value for _, value in taken.logprobs[1].top] == pytest.approx(values[1, likeliest], abs=1e-5)


@FORMS
def test_alternatives_without_probability_are_not_told(form: type[Any]) -> None:
    made = form()
    made.join([RowSpec(Sampling(temperature=0), logprobs=20), RowSpec(Sampling(temperature=0), logprobs=1)])
    logits = np.full((2, 40), -np.inf, np.float32)
    logits[:, [3, 9]] = [0.0, 1.0]
    taken = made.begin(mx.array(logits)).take()
    assert [token for token, _ in taken.logprobs[0].top] == [9, 3]
    assert [token for token, _ in taken.logprobs[1].top] == [9]


@FORMS
@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_a_row_without_a_distribution_is_bad_alone(form: type[Any], value: float) -> None:
    logits = logits_of(len(MIXED), 300)
    specs = [spec._replace(logprobs=2) for spec in specs_of(MIXED)]

    def told(change: Sequence[int]) -> Taken:
        made = form()
        made.join(specs)
        spoilt = logits.copy()
        for row in change:
            # One NaN or one infinity is enough; without any finite logit there is nothing to draw.
            spoilt[row, 17 if value != -np.inf else slice(None)] = value
        draw = made.begin(mx.array(spoilt))
        assert len(draw.inputs().tolist()) == len(MIXED)
        return draw.take()

    right = told([])
    assert right.bad == []
    for change in ([0], [2, 4, 6], range(len(MIXED))):
        taken = told(change)
        assert taken.bad == list(change)
        wanted = [0 if row in change else token for row, token in enumerate(right.ids)]
        assert taken.ids == wanted
        assert set(taken.logprobs) == set(range(len(MIXED))) - set(change)


@FORMS
def test_tokens_that_are_ruled_out_are_never_drawn(form: type[Any]) -> None:
    """A few finite logits among -inf, as a mask leaves them."""
    logits = np.full(300, -np.inf, np.float32)
    logits[[4, 5, 299]] = [1.0, -1.0, 0.5]
    for sampling in (*SHAPES, Sampling(top_k=50), Sampling(temperature=1e9), Sampling(repetition_penalty=2)):
        assert set(draws(form, logits, sampling, 100, 1)) <= {4, 5, 299}


@FORMS
def test_a_single_greedy_row_that_is_bad_is_told_of(form: type[Any]) -> None:
    made = form()
    made.join([RowSpec(Sampling(temperature=0))])
    assert made.begin(mx.full((1, 9), math.nan)).take() == Taken([0], [0], {})


@FORMS
def test_a_draw_answers_for_the_rows_it_was_begun_with(form: type[Any]) -> None:
    """Rows may leave and join before it is taken; what it drew still counts for those that stay."""
    specs = [
        RowSpec(
            Sampling(0.3, seed=row, repetition_penalty=4, repetition_context=3, presence_penalty=2), (row, 7)
        )
        for row in range(6)
    ]
    logits = [logits_of(6, 12, seed=step) for step in range(9)]
    alone = [answer(form, spec, np.stack([step[row] for step in logits])) for row, spec in enumerate(specs)]
    made = form()
    made.join(specs[:4])
    first = made.begin(mx.array(logits[0][:4]))
    made.keep([1, 3])
    made.join(specs[4:])
    assert len(made) == 4
    assert first.take().ids == [tokens[0] for tokens in alone[:4]]
    for step in range(1, 9):
        # The rows that joined later are a step behind.
        rows = [logits[step][1], logits[step][3], logits[step - 1][4], logits[step - 1][5]]
        draw = made.begin(mx.array(np.stack(rows)))
        if step % 2:
            wanted = [alone[1][step], alone[3][step], alone[4][step - 1], alone[5][step - 1]]
            assert draw.take().ids == wanted
    made.keep([])
    assert len(made) == 0


def test_the_form_is_the_devices() -> None:
    made: Sampler = sampler()
    on_cpu = mx.default_device().type == mx.DeviceType.cpu
    assert isinstance(made, HostSampler if on_cpu else DeviceSampler)
    assert isinstance(sampler(device_is_cpu=False), DeviceSampler)


@pytest.mark.parametrize(
    ("field", "wrong", "right"),
    [
        ("temperature", [-0.1, math.inf, math.nan], [0, 2.5]),
        ("top_p", [0, 1.01, math.nan], [0.001, 1]),
        ("top_k", [-1], [0, 10**30]),
        ("min_p", [-0.01, 1.1, math.nan], [0, 1]),
        ("repetition_penalty", [0, 1e-300, 0.009, -1, 10.1, math.nan], [0.01, 10]),
        ("repetition_context", [-1], [0, 10**30]),
        ("presence_penalty", [-2.1, 2.1, math.nan], [-2, 2]),
        ("frequency_penalty", [-2.1, 2.1, math.nan], [-2, 2]),
        ("logit_bias", [{-1: 0.0}, {1: 101.0}, {1: math.nan}], [{0: 100.0, 10**30: -100.0}]),
        ("seed", [-(1 << 63) - 1, 1 << 63], [-(1 << 63), -1, 0, (1 << 63) - 1, None]),
    ],
)
@FORMS
def test_values_out_of_range_are_refused_and_all_others_can_be_drawn_with(
    form: type[Any], field: str, wrong: list[Any], right: list[Any]
) -> None:
    for value in wrong:
        with pytest.raises(InvalidParameter) as caught:
            check(Sampling(**{field: value}))
        assert caught.value.field == field
    for value in right:
        sampling = Sampling(**({"repetition_penalty": 1.1} | {field: value}))
        check(sampling)
        assert 0 <= answer(form, RowSpec(sampling, (1, 2)), logits_of(3))[-1] < VOCAB


@pytest.mark.parametrize("kind", [HostSampler, DeviceSampler])
def test_penalties_stay_with_their_rows_when_others_take_the_place_of_one_that_left(kind: type) -> None:
    """The last row moves into the place of one that leaves, so the order of the batch is not that of joining."""
    rng = np.random.default_rng(5)
    steps = [rng.normal(size=(4, 64)).astype(np.float32) for _ in range(12)]
    specs = [
        RowSpec(Sampling(temperature=0.0)),
        RowSpec(Sampling(temperature=0.0, repetition_penalty=1.8, presence_penalty=1.0), (1, 2, 3)),
        RowSpec(Sampling(temperature=0.0, frequency_penalty=2.0, logit_bias={7: 3.0}), (4, 5)),
        RowSpec(Sampling(temperature=0.0, repetition_penalty=2.5), (6, 7, 8)),
    ]
    alone = []
    for row, spec in enumerate(specs):
        single = kind()
        single.join([spec])
        alone.append([single.begin(mx.array(step[row : row + 1])).take().ids[0] for step in steps])
    together, order = kind(), [0, 1, 2, 3]
    together.join(specs)
    for at, step in enumerate(steps):
        drawn = together.begin(mx.array(step[order])).take().ids
        assert drawn == [alone[row][at] for row in order]
        if at in (3, 7):
            keep = [0, len(order) - 1, *range(2, len(order) - 1)] if at == 3 else [len(order) - 1, 1]
            order = [order[row] for row in keep]
            together.keep(keep)


class Scripted:
    """A guide that follows a script of masks and writes down what it is told. Lost when told of a token in `fatal`."""

    def __init__(self, masks: Sequence[Sequence[int] | None], vocab: int = VOCAB, fatal: Sequence[int] = ()):
        self.masks, self.vocab, self.fatal = list(masks), vocab, fatal
        self.told: list[int] = []

    def mask(self) -> Mask | None:
        allowed = self.masks[min(len(self.told), len(self.masks) - 1)]
        return None if allowed is None else only(allowed, self.vocab)

    def accept(self, token: int) -> None:
        self.told.append(token)
        if token in self.fatal:
            raise GuideLost

    def copy(self) -> Scripted:
        return Scripted(self.masks, self.vocab, self.fatal)


GUIDED = [
    Sampling(temperature=0),
    Sampling(seed=1),
    Sampling(seed=2, top_k=3, temperature=0.7),
    Sampling(seed=3, top_p=0.6, repetition_penalty=1.4),
    Sampling(seed=4, top_p=0.8, top_k=5, min_p=0.01, presence_penalty=1.0, logit_bias={9: 2.0}),
    Sampling(temperature=0, frequency_penalty=1.0),
]
ALLOWED = [[3, 9, 31, 32, 63], [9], None, [0, 1, 2, 40]]


@FORMS
@pytest.mark.parametrize("sampling", GUIDED, ids=str)
def test_a_guided_row_draws_what_is_allowed_and_tells_its_guide_once(
    form: type[Any], sampling: Sampling
) -> None:
    guide = Scripted(ALLOWED)
    tokens = answer(form, RowSpec(sampling, (1, 2), guide=guide), logits_of(12))
    assert guide.told == tokens
    for token, allowed in zip(tokens, [*ALLOWED, *[ALLOWED[-1]] * 8], strict=True):
        assert allowed is None or token in allowed


@FORMS
@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.7, 0.8), Sampling(top_k=4), Sampling(1.5, min_p=0.1)]
)
def test_guided_draws_have_the_distribution_of_what_is_left(form: type[Any], sampling: Sampling) -> None:
    """Bias, then the mask, then `top_p` and its kind: they look at the tokens that are allowed."""
    allowed = [1, 5, 6, 31, 32, 50, 63]
    logits = logits_of(1)[0]
    left = np.full(VOCAB, -np.inf, np.float32)
    left[allowed] = logits[allowed]
    made = form()
    made.join([RowSpec(with_seed(sampling, row), guide=Scripted([allowed])) for row in range(4_000)])
    drawn = made.begin(mx.broadcast_to(mx.array(logits), (4_000, VOCAB))).take().ids
    assert surprise(np.bincount(drawn, minlength=VOCAB), expected(left, sampling)) < 4


@FORMS
def test_guided_and_free_rows_draw_the_same_whoever_is_beside_them(form: type[Any]) -> None:
    """Rows come and go, guided rows leave with a draw open; every guide is told what its row was told."""
    logits = np.stack([logits_of(8, seed=step) for step in range(10)])
    samplings = [*GUIDED, Sampling(seed=8, top_p=0.9), Sampling(temperature=0)]
    alone = []
    for row, sampling in enumerate(samplings):
        guide = Scripted(ALLOWED) if row < len(GUIDED) else None
        alone.append(answer(form, RowSpec(sampling, (row,), guide=guide), logits[:, row]))
    guides = [Scripted(ALLOWED) for _ in GUIDED]
    specs = [
        RowSpec(sampling, (row,), guide=guides[row] if row < len(GUIDED) else None)
        for row, sampling in enumerate(samplings)
    ]
    made, present, told = form(), list(range(5)), [0] * 8
    made.join(specs[:5])
    for step in range(6):
        draw = made.begin(mx.array(np.stack([logits[told[row], row] for row in present])))
        here = list(present)
        if step == 2:
            # Row 1 leaves, and the last one takes its place.
            made.keep([0, 4, 2, 3])
            present = [0, 4, 2, 3]
        if step == 4:
            made.join(specs[5:])
            present += [5, 6, 7]
        assert draw.inputs().tolist() == draw.take().ids == [alone[row][told[row]] for row in here]
        for row in here:
            told[row] += 1
    assert told == [6, 3, 6, 6, 6, 1, 1, 1]
    told[1] -= 1  # Its guide was not told of the draw that was open when it left.
    for row, guide in enumerate(guides):
        assert guide.told == alone[row][: told[row]]


@FORMS
def test_a_guide_is_not_told_of_a_draw_that_its_row_left(form: type[Any]) -> None:
    guides = [Scripted([[4, 5]]), Scripted([[6, 7]])]
    made = form()
    made.join([RowSpec(Sampling(seed=1), guide=guide) for guide in guides])
    draw = made.begin(mx.array(logits_of(2)))
    made.keep([1])
    made.begin(mx.array(logits_of(1))).take()
    assert draw.take().ids[1] == guides[1].told[0]
    assert guides[0].told == []
    assert len(guides[1].told) == 2


@FORMS
@pytest.mark.parametrize(
    "trouble", ["nothing is allowed", "the guide is lost", "the mask is too narrow", "NaN"]
)
def test_a_row_whose_guide_has_no_way_on_is_bad_alone(form: type[Any], trouble: str) -> None:
    logits = logits_of(3)
    guide: Scripted = Scripted([[5], []])
    if trouble == "the guide is lost":
        guide = Scripted([[5], [6]], fatal=[5])
    elif trouble == "the mask is too narrow":
        guide = Scripted([[5], [32]], vocab=32)
        guide.masks[1] = []
    beside = [Scripted([[1], [2]]), Scripted([None])]
    made = form()
    made.join(
        [RowSpec(Sampling(seed=row), guide=one) for row, one in enumerate([beside[0], guide, beside[1]])]
    )
    first = made.begin(mx.array(logits)).take()
    assert first.bad == []
    assert first.ids[:2] == [1, 5]
    if trouble == "NaN":
        guide.masks[1] = [6]
        logits[1, 40] = np.nan
    second = made.begin(mx.array(logits)).take()
    assert second.bad == [1]
    assert second.ids[:2] == [2, 0]
    assert guide.told == [5]
    assert len(beside[1].told) == 2


@FORMS
def test_tokens_beyond_a_mask_are_not_allowed_and_logprobs_are_the_models_own(form: type[Any]) -> None:
    """Logits are often wider than the vocabulary, by what makes their number a round one."""
    logits = np.zeros((2, 100), np.float32)
    logits[:, 90] = 50.0
    logits[:, 7] = 1.0
    made = form()
    made.join(
        [RowSpec(Sampling(temperature=0), logprobs=1, guide=Scripted([range(64)])), RowSpec(Sampling(0.0))]
    )
    taken = made.begin(mx.array(logits)).take()
    assert taken.ids == [7, 90]
    assert taken.logprobs[0].logprob == pytest.approx(-49, abs=1e-4)
    assert taken.logprobs[0].top[0][0] == 90


def test_a_plan_with_guides_is_never_lazy_on_the_host() -> None:
    made = HostSampler()
    made.join([RowSpec(Sampling(temperature=0), guide=Scripted([[3]]))])
    draw = made.begin(mx.array(logits_of(1)))
    assert not draw.lazy
    assert draw.inputs().tolist() == [3]
