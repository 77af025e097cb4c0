"""From a GGUF file's vocabulary to tokenizer.json and tokenizer_config.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ..errors import ImportRefused
from .gguf_file import GgufFile

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)
SPACE = "▁"

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")
# The expressions a text is split with, one after the other; the names and expressions are llama.cpp's.
SPLITS: dict[str, tuple[str, ...]] = {
    "default": DEFAULT,
    "gpt-2": (GPT2,),
    "smollm": (r"\p{N}", GPT2),
    "starcoder": (r"\p{N}", GPT2),
    "llama-bpe": (rf"{CONTRACTIONS}|{WORDS}|\p{{N}}{{1,3}}|{REST}",),
    "qwen2": (rf"{CONTRACTIONS}|{WORDS}|\p{{N}}|{REST}",),
    "deepseek-r1-qwen": (rf"{CONTRACTIONS}|{WORDS}|\p{{N}}|{REST}",),
}
# Texts that end an answer where they are control tokens, whatever the file calls its end of sequence.
ENDINGS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|end_of_text|>", "<|endoftext|>", "</s>")
ENDING_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
SPECIALS = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}


def read_tokenizer(file: GgufFile) -> Tokenizer:
    """The tokenizer of a GGUF file. Raises ImportRefused naming its model, pre-tokenizer or missing key."""
    kind = file.need("tokenizer.ggml.model", str)
    builders: dict[str, Callable[[GgufFile, dict[str, int]], Tokenizer]] = {
        "gpt2": _byte_level,
        "llama": _sentencepiece,
    }
    if kind not in builders:
        raise ImportRefused(
            f"{file.path.name} has the tokenizer model {kind!r}; {', '.join(builders)} can be imported."
        )
    vocabulary = _vocabulary(file)
    tokenizer = builders[kind](file, vocabulary)
    _add_marked(file, tokenizer)
    if _adds_bos(file):
        token = _special(file, "bos")
        if token is None:
            raise ImportRefused(f"{file.path.name} lacks the metadata key 'tokenizer.ggml.bos_token_id'.")
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[token, "$A"],
            pair=[token, "$A", token, "$B:1"],
            special_tokens=[(token, vocabulary[token])],
        )
    return tokenizer


def tokenizer_config(file: GgufFile, context_length: int) -> dict[str, Any]:
    """tokenizer_config.json: special tokens and the chat template. Named templates beside the default are left out."""
    found = {name: token for key, name in SPECIALS.items() if (token := _special(file, key)) is not None}
    template = file.get("tokenizer.chat_template", "")
    return {
        # The class that takes tokenizer.json as it is; others build their own splitting.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
        **found,
        **({"chat_template": template} if template else {}),
    }


def ending_tokens(file: GgufFile) -> list[int]:
    """Ids of the tokens that end an answer, the file's own end of sequence first."""
    tokens, types = file.array("tokenizer.ggml.tokens", str), _types(file)
    named = [file.get(f"tokenizer.ggml.{key}", -1) for key in ENDING_KEYS]
    usual = [at for at, token in enumerate(tokens) if token in ENDINGS and types[at] == CONTROL]
    return list(dict.fromkeys(at for at in [*named, *usual] if 0 <= at < len(tokens)))


def _vocabulary(file: GgufFile) -> dict[str, int]:
    tokens = file.array("tokenizer.ggml.tokens", str)
    vocabulary = {token: at for at, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        twice = next(token for at, token in enumerate(tokens) if vocabulary[token] != at)
        raise ImportRefused(f"{file.path.name}: the token {twice!r} is in the vocabulary twice.")
    rows = file.tensors["token_embd.weight"].shape[0]
    if len(tokens) > rows:
        raise ImportRefused(f"{file.path.name} has {len(tokens)} tokens and {rows} embeddings.")
    return vocabulary


def _types(file: GgufFile) -> list[int]:
    tokens = file.array("tokenizer.ggml.tokens", str)
    if "tokenizer.ggml.token_type" not in file.metadata:
        return [NORMAL] * len(tokens)
    types = file.array("tokenizer.ggml.token_type", int)
    if len(types) != len(tokens):
        raise ImportRefused(
            f"{file.path.name}: 'tokenizer.ggml.token_type' has {len(types)} of {len(tokens)} values."
        )
    return types


def _special(file: GgufFile, key: str) -> str | None:
    at, tokens = file.get(f"tokenizer.ggml.{key}_token_id", -1), file.array("tokenizer.ggml.tokens", str)
    return tokens[at] if 0 <= at < len(tokens) else None


def _adds_bos(file: GgufFile) -> bool:
    """Files without the key mean what their kind of tokenizer does by itself."""
    own = file.get("tokenizer.ggml.model", "") == "llama" or file.get("tokenizer.ggml.pre", "") == "llama-bpe"
    return file.get("tokenizer.ggml.add_bos_token", own)


def _add_marked(file: GgufFile, tokenizer: Tokenizer) -> None:
    """Tokens that are found in a text before it is split: control tokens, unseen in answers, and a user's own."""
    tokens, types = file.array("tokenizer.ggml.tokens", str), _types(file)
    marked = [(token, kind) for token, kind in zip(tokens, types, strict=True) if kind in (CONTROL, USER)]
    tokenizer.add_tokens(
        [AddedToken(token, special=kind == CONTROL, normalized=False) for token, kind in marked]
    )


# --- byte-level BPE ----------------------------------------------------------------------------------------


def _byte_level(file: GgufFile, vocabulary: dict[str, int]) -> Tokenizer:
    pre = file.need("tokenizer.ggml.pre", str)
    if pre not in SPLITS:
        raise ImportRefused(
            f"{file.path.name} has the pre-tokenizer {pre!r}; {', '.join(SPLITS)} can be imported."
        )
    merges = [_merge(file, line, vocabulary) for line in file.array("tokenizer.ggml.merges", str)]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre == "llama-bpe"))
    splits = [pre_tokenizers.Split(Regex(expression), "isolated") for expression in SPLITS[pre]]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def _merge(file: GgufFile, line: str, vocabulary: dict[str, int]) -> tuple[str, str]:
    left, _, right = line.partition(" ")
    if not {left, right, left + right} <= vocabulary.keys():
        raise ImportRefused(f"{file.path.name}: the merge {line!r} leads out of the vocabulary.")
    return left, right


# --- SentencePiece BPE -------------------------------------------------------------------------------------


def _sentencepiece(file: GgufFile, vocabulary: dict[str, int]) -> Tokenizer:
    scores, types = file.array("tokenizer.ggml.scores", float), _types(file)
    if len(scores) != len(vocabulary):
        raise ImportRefused(
            f"{file.path.name}: 'tokenizer.ggml.scores' has {len(scores)} of {len(vocabulary)} values."
        )
    fallback = BYTE in types
    merges = _score_merges(vocabulary, scores, types)
    unknown = _special(file, "unknown") or next(
        (t for t, k in zip(vocabulary, types, strict=True) if k == UNKNOWN), None
    )
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=fallback)
    )
    prefix = file.get("tokenizer.ggml.add_space_prefix", True)
    spaces = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prefix else spaces
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return tokenizer


def _score_merges(vocabulary: dict[str, int], scores: list[float], types: list[int]) -> list[tuple[str, str]]:
    """SentencePiece joins the neighbours whose union scores best: so every split of a token, best token first."""
    usable = {token for token, at in vocabulary.items() if types[at] in (NORMAL, UNUSED)}
    ranked = sorted(usable, key=lambda token: (-scores[vocabulary[token]], vocabulary[token]))
    return [
        (token[:cut], token[cut:])
        for token in ranked
        for cut in range(1, len(token))
        if token[:cut] in usable and token[cut:] in usable
    ]
