"""What a request's time went into: milliseconds by kind, and the most of it in words."""

from __future__ import annotations

from collections.abc import Sequence

from ..record import AuditRecord, Neighbour, Span

# In the order in which they are told. "others" are passes over other requests' prompts that it waited for, "wait"
# steps of other answers, "send" the client's taking of bytes after the model was done, "other" the rest: reading the
# request, finding its model, writing what little is not measured.
KINDS = ("queue", "load", "tokenise", "restore", "prefill", "others", "wait", "decode", "send", "other")
WORDS = {
    "queue": "was waiting for its turn",
    "load": "was the loading of its model",
    "tokenise": "was the tokenising of its prompt",
    "restore": "was the restoring of its cached prefix",
    "wait": "was waiting for steps of other answers",
    "send": "was waiting for its client to take the answer",
    "other": "was the server's own work: reading the request, finding its model, writing the answer",
}
NOTABLE = 0.1  # of the duration: what is worth a second sentence
ENDED = {
    "cancelled": "Its client left after {}. ",
    "timeout": "It was given up after {}. ",
    "error": "It failed after {}. ",
}


def shares(record: AuditRecord, spans: Sequence[Span], neighbours: Sequence[Neighbour]) -> dict[str, float]:
    """Milliseconds by `KINDS`; they add up to the duration. Kinds without any are left out."""
    found = dict.fromkeys(KINDS, 0.0)
    end = 0.0
    for span in spans:
        if span.kind != "send":
            found[span.kind] += span.ms
            end = max(end, span.at_ms + span.ms)
    for span in spans:
        if span.kind == "send":
            found["send"] += max(0.0, span.at_ms + span.ms - max(span.at_ms, end))
    own = sum(one.prefill_ms for one in neighbours if one.request_id == record.request_id)
    waited = found["wait"]
    found["prefill"] += (mine := min(own, waited))
    found["others"] = min(record.interference_ms or 0.0, waited - mine)
    found["wait"] = waited - mine - found["others"]
    known = sum(found.values())
    if known > record.duration_ms:  # two clocks were read at slightly different moments
        found = {kind: ms * record.duration_ms / known for kind, ms in found.items()}
    else:
        found["other"] = record.duration_ms - known
    return {kind: round(ms, 3) for kind, ms in found.items() if ms >= 0.001}


def sentence(record: AuditRecord, shares: dict[str, float], neighbours: Sequence[Neighbour]) -> str:
    """Where most of the time went, and what else is notable, in plain words."""
    whole = record.duration_ms
    ended = ENDED.get(record.status, "").format(seconds(whole))
    told = {kind: ms for kind, ms in shares.items() if kind != "other"}
    if not told:
        why = "Where that went was not kept." if record.model_used else "No model worked on it."
        return f"{ended or f'It took {seconds(whole)}. '}{why}"
    most = max(shares, key=lambda kind: shares[kind])
    words = [
        f"{ended}{seconds(shares[most])} of its {seconds(whole)} {_words(most, record, shares, neighbours)}."
    ]
    if most != "others" and shares.get("others", 0.0) >= NOTABLE * whole:
        words.append(f"{seconds(shares['others'])} {_words('others', record, shares, neighbours)}.")
    if record.blocked_ms is not None and record.blocked_ms >= NOTABLE * whole and most != "send":
        words.append(f"Meanwhile its client took no bytes for {seconds(record.blocked_ms)}.")
    return " ".join(words)


def _words(kind: str, record: AuditRecord, shares: dict[str, float], neighbours: Sequence[Neighbour]) -> str:
    if kind == "others":
        return _blame(record, shares["others"], neighbours)
    if kind == "prefill":
        new = max(0, record.prompt_tokens - record.cached_tokens)
        return f"was its own prefill ({_count(new, 'token')})"
    if kind == "decode":
        batch = record.batch_mean or 1.0
        beside = f", {batch:.1f} answers at a time on average" if batch >= 1.05 else ""
        return f"was decoding ({_count(record.completion_tokens, 'token')}{beside})"
    return WORDS[kind]


def _blame(record: AuditRecord, whole: float, neighbours: Sequence[Neighbour]) -> str:
    others = [one for one in neighbours if one.prefill_ms and one.request_id != record.request_id]
    if not others:
        return "was the prefill of other requests"
    most = max(others, key=lambda one: one.prefill_ms)
    name = f"request {short(most.request_id)}'s prefill"
    if len(others) == 1 or most.prefill_ms > 0.95 * whole:
        return f"was {name}"
    return f"was the prefill of {len(others)} other requests, {seconds(most.prefill_ms)} of it {name}"


def short(request_id: str) -> str:
    """A request id as a sentence has room for it: the first letters of what is its own."""
    own = request_id.removeprefix("req_")
    return own if len(own) <= 10 else f"{own[:8]}…"


def seconds(ms: float) -> str:
    """4.2 ms, 240 ms, 6.1 s, 2 min 5 s."""
    if ms < 9.95:
        return f"{ms:.1f} ms"
    if ms < 999.5:
        return f"{ms:.0f} ms"
    if ms < 99_950:
        return f"{ms / 1000:.1f} s"
    minutes, rest = divmod(round(ms / 1000), 60)
    return f"{minutes:,} min {rest} s" if rest else f"{minutes:,} min"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
