"""Rules for lines that change at every turn: what they take, and above all what they leave."""

from __future__ import annotations

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from mlx_panel.messages import Message
from mlx_panel.parse.volatile import DEFAULT, LONGEST, RULES, strip

HEADER = "x-anthropic-billing-header: cc_version=2.1.117.48f; cc_entrypoint=cli; cch=71fea;"
NAMES = [rule.name for rule in RULES]
# Rule, role, a line it takes; from the issues of the agents named in the rules.
TAKEN = [
    ("claude-code-header", "system", HEADER),
    (
        "claude-code-header",
        "system",
        "x-anthropic-billing-header: cc_version=2.1.220.c12; cc_entrypoint=cli;",
    ),
    (
        "claude-code-header",
        "system",
        "x-anthropic-billing-header: cc_version=2.1.39.c39; cch=56445; cc_workload=w;",
    ),
    ("clock", "system", "Current date and time: Monday, March 9, 2026 at 06:00:31 PM PDT"),
    ("clock", "system", "Current date and time: Tuesday, June 9, 2026, 03:04:20 PM +03:00"),
    ("clock", "system", "Current time is 15:09:20. Today's date is 2026-09-09."),
    ("clock", "system", "Thursday, January 15th, 2026 — 3:07 PM (America/Chicago)"),
    ("clock", "system", "2026-02-06 10:22 (Friday)"),
    ("clock", "system", "It is currently 2026-06-15 10:00:00 +00:00"),
    ("clock", "system", "- Current Date & Time: 2026-05-02T10:01:04.045Z"),
    ("date", "system", "  Today's date: Sun Mar 22 2026"),
    ("date", "system", "Current date: 2026-06-09"),
    ("date", "system", "Today is Tuesday, 9 June 2026."),
    ("goose-turn-context", "user", "<current-time>2026-07-26 18:04:00 +02:00</current-time>"),
    ("goose-turn-context", "user", "  <compaction>~12k tokens remaining</compaction>"),
]
LEFT = [
    "You are a helpful assistant.",
    HEADER + " You are Claude Code.",
    "The x-anthropic-billing-header: cch=1; changes at each request.",
    "Today is your day, 100 %.",
    "Today is 2026-06-09, and the current working directory is '/home/me'.",
    "Current time zone: 12:00 means noon in Europe/Berlin, always convert.",
    "Current date and time: call the tool, do not guess 10:00.",
    "Time format: 12-hour",
    "It is currently raining at 10:00.",
    "import x  # 2026-02-06 10:22",
    "<current-time>",
    "12:30",
    "",
]
LINES = st.one_of(st.text(max_size=30), st.sampled_from([line for _, _, line in TAKEN] + LEFT))
CONTENTS = st.lists(LINES, max_size=8).map("\n".join)
MESSAGES = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant", "tool"]), st.none() | CONTENTS),
    max_size=4,
).map(tuple)


@pytest.mark.parametrize(("name", "role", "line"), TAKEN)
def test_each_rule_takes_its_lines(name: str, role: str, line: str) -> None:
    other = "assistant" if role == "system" else "system"
    messages = (Message(role, f"{line}\nYou are helpful.\r\n"), Message(other, line))
    stripped, counts = strip(messages, [name])
    assert [message.content for message in stripped] == ["You are helpful.\r\n", line]
    assert counts == {name: 1}
    assert strip(messages, [other for other in NAMES if other not in (name, "clock", "date")]) == (
        messages,
        {},
    )


@pytest.mark.parametrize("line", LEFT)
def test_other_lines_stay(line: str) -> None:
    for messages in ((Message("system", line),), (Message("user", f"{line}\n{HEADER}"),)):
        stripped, counts = strip(messages, NAMES)
        assert stripped is messages
        assert counts == {}


def test_the_header_goes_only_where_the_agent_writes_it() -> None:
    quoted = Message("system", f"Explain this line:\n{HEADER}\n")
    assert strip((quoted,), NAMES) == ((quoted,), {})
    first = Message("system", f"\n{HEADER}\n\nYou are Claude Code.")
    alone = Message("system", HEADER)
    assert strip((alone, first), DEFAULT) == (
        (Message("system", ""), Message("system", "\n\nYou are Claude Code.")),
        {"claude-code-header": 2},
    )


def test_only_what_tells_the_model_nothing_is_on_by_default() -> None:
    assert {"claude-code-header"} == DEFAULT
    assert all(len(rule.description) > 60 and rule.roles for rule in RULES)
    with pytest.raises(ValueError, match="no rule is called clok"):
        strip((), ["clok"])


@given(MESSAGES, st.sets(st.sampled_from(NAMES)))
def test_what_is_left_is_what_was_there(messages: tuple[Message, ...], enabled: set[str]) -> None:
    stripped, counts = strip(messages, enabled)
    assert (stripped is messages) == (not counts)
    assert strip(stripped, enabled) == (stripped, {})
    for before, after in zip(messages, stripped, strict=True):
        assert msgspec.structs.replace(after, content=before.content) == before
        if after is not before:
            # What is left are lines of before, in their order and byte by byte.
            lines = iter((before.content or "").split("\n"))
            assert after.content == "" or all(line in lines for line in (after.content or "").split("\n"))
    taken = [len((message.content or "").split("\n")) for message in messages]
    left = [len((message.content or "").split("\n")) for message in stripped]
    emptied = sum(
        message.content == "" != other.content for message, other in zip(stripped, messages, strict=True)
    )
    assert sum(taken) - sum(left) <= sum(counts.values()) <= sum(taken) - sum(left) + emptied
    assert set(counts) <= enabled


@given(st.text(alphabet="acx-:;= \t0123456789TZPM'/(),today", max_size=4 * LONGEST))
def test_no_line_takes_long(line: str) -> None:
    strip((Message("system", line), Message("system", f"x-anthropic-billing-header:{line}")), NAMES)


def test_no_pattern_backtracks() -> None:
    """One that does would not come to an end here."""
    for line in (
        "a=" * 80,
        "current time 1:00 " + "t " * 85,
        "<compaction>" + "<" * 150,
        "today 1 " + "st" * 90,
    ):
        strip((Message("system", line + "!"), Message("user", line)), NAMES)
        strip((Message("system", "x-anthropic-billing-header:" + line),), NAMES)
