"""Prompts of a wanted length from a seed: plain English words, so that no model's tokenizer needs many tokens for them.

Every prompt begins with words no server has seen, or its prefix cache would answer instead of its model.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from .records import BenchmarkError, Workload

WORDS = tuple(
    """
able about above across after again against almost alone along already also always among animal another answer any
around art ask away baby back ball bank base beautiful because bed been before began behind being below best better
between big bird black blue board boat body book both box boy bring brother brown build built business busy came
car care carry case cat center change check child children church city class clean clear close cold color come common
complete could country course cover cross cut dark day deep did different dinner direct distance doctor does dog done
door down draw dream dress drink drive drop dry during each early earth east easy eat edge effect eight either else end
energy enough even evening ever every example eye face fact fall family far farm fast father feel feet few field fill
final find fine fire first fish five floor flower fly follow food foot force forest form found four free friend from
front full game garden gave general girl give glass gold good great green ground group grow guess half hand happen happy
hard have head hear heart heat heavy help here high hill history hold home hope horse hot hour house human hundred idea
inside island job join just keep kind king knew know lake land language large last late laugh law lead learn leave left
less letter level life light like line list listen little live long look lost love low machine made main make map mark
market matter mean measure meet middle might mile milk mind minute money month moon more morning most mother mountain
move much music name nature near never new next night nine north note nothing notice now number object ocean off office
often old once only open order other over own page paper part party pass past pattern people perhaps person picture
piece place plan plane plant play point poor possible power present pretty problem public pull question quick quiet
rain reach read ready real reason record red remember rest rich right river road rock room round rule run said same
sand school science sea season second see seem sentence serve set seven several shape ship short should show side silver
simple sing sister size sleep slow small snow social soft some song soon sound south space special spell spring square
stand star start state stay step still stone stop story strong study such summer sun sure surface system table take talk
teach team ten test than their there thing think third those though thought thousand three through time today together
told too took top town travel tree true try turn two under unit until usual valley very view village visit voice wait
walk wall want war warm watch water wave way weather week weight well went west what wheel where white whole why wide
wife wild will wind window winter wish with woman wonder wood word work world would write wrong year yellow yes young
""".split()  # noqa: SIM905
)
SLACK = 1.5  # words made for a token wanted; no tokenizer in use needs fewer tokens than words
TRIES = 8


class Like(msgspec.Struct, frozen=True):
    """What one request of a replay asks for, in the workload's stead; None leaves a value to the server."""

    output_tokens: int
    model: str = ""
    stream: bool = True
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


class Ask(msgspec.Struct, frozen=True):
    """One request to come. `due` is seconds after the run's begin, 0 in a closed loop; `leave_after` pieces, or None."""

    number: int
    prompt: str
    due: float = 0.0
    leave_after: int | None = None
    like: Like | None = None


class Prompts:
    """Prompts of a run. With a tokenizer their length is exact, else a word is taken for a token."""

    def __init__(self, workload: Workload, tokenizer: Tokenizer | None = None):
        self._workload, self._tokenizer = workload, tokenizer
        self._shared_tokens = round(workload.shared_prefix * workload.prompt_tokens)
        shared = random.Random(f"{workload.salt} {workload.seed} shared")
        self._shared = self._text(shared, self._shared_tokens) if self._shared_tokens else ""

    def __repr__(self) -> str:
        return f"<Prompts of {self._workload.prompt_tokens} tokens, {self._shared_tokens} of them shared>"

    def __call__(self, number: int, part: str = "") -> str:
        """The prompt of a request; the same number gives the same text. `part` keeps warm-up and run apart."""
        source = random.Random(f"{self._workload.salt} {self._workload.seed} {part} {number}")
        left = self._workload.prompt_tokens - self._shared_tokens
        if not left:
            return self._shared
        own = self._text(source, left)
        return f"{self._shared} {own}" if self._shared else own

    def _text(self, source: random.Random, tokens: int) -> str:
        if self._tokenizer is None:
            return " ".join(source.choices(WORDS, k=tokens))
        words = " ".join(source.choices(WORDS, k=int(tokens * SLACK) + 8))
        return self._cut(words, tokens)

    def _cut(self, text: str, tokens: int) -> str:
        """The beginning of a text that has so many tokens, as near as whole words get when encoded again."""
        assert self._tokenizer is not None
        wanted = tokens
        for _ in range(TRIES):
            offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
            piece = text[: offsets[min(wanted, len(offsets)) - 1][1]]
            found = len(self._tokenizer.encode(piece, add_special_tokens=False).ids)
            if found == tokens or wanted + tokens - found < 1:
                break
            wanted += tokens - found
        return piece


def asks(workload: Workload, tokenizer: Tokenizer | None = None) -> Iterator[Ask]:
    """The requests of a run in their order, without end where the time decides."""
    prompts = Prompts(workload, tokenizer)
    chance = random.Random(f"{workload.seed} arrivals")
    due, number = 0.0, 0
    while not workload.total or number < workload.total:
        leaves = workload.cancel_after if chance.random() < workload.cancel else None
        due += chance.expovariate(workload.rate) if workload.rate else 0.0
        yield Ask(number, prompts(number), due, leaves)
        number += 1


def warmups(workload: Workload, tokenizer: Tokenizer | None = None) -> list[Ask]:
    """What is asked before the run; the shared part is left cold, the run itself shows what sharing brings."""
    cold = msgspec.structs.replace(workload, shared_prefix=0.0)
    prompts = Prompts(cold, tokenizer)
    return [Ask(number, prompts(number, "warm-up")) for number in range(workload.warmup)]


def open_tokenizer(folder: str) -> Tokenizer | None:
    """The tokenizer of a model folder; None for an empty name. Raises BenchmarkError."""
    if not folder:
        return None
    file = Path(folder).expanduser() / "tokenizer.json"
    try:
        return Tokenizer.from_buffer(file.read_bytes())
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{file} cannot be read as a tokenizer.") from error
