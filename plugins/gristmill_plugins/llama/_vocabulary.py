"""Find what is wrong with the vocabulary inside a GGUF header.

It does not tokenise. Invariant: a vocabulary without problems is one that llama.cpp's loader (llama-vocab.cpp) reads
without an assertion and that its tokenizers can use for any text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from gristmill import suggest
from gristmill_plugins.llama._ggml import TOKENIZERS
from gristmill_plugins.llama._gguf_reader import GGUFHeader

_BYTE_TYPE = 6
_ENDS = ("bos", "eos", "eot", "eom")
"""Special tokens whose absence changes prompts or the end of answers; llama.cpp only warns of a bad one."""


def vocabulary_problems(header: GGUFHeader) -> Iterator[str]:
    """Yield what is wrong, in words."""
    model = header.metadata.get("tokenizer.ggml.model")
    if model in ("no_vocab", "none"):
        yield "it has no vocabulary, so it cannot read or write text"
    elif model is None:
        yield "'tokenizer.ggml.model' is missing"
    elif model not in TOKENIZERS:
        yield f"'tokenizer.ggml.model' is {model!r}: {suggest(str(model), TOKENIZERS)}"
    elif not header.tokens:
        yield "'tokenizer.ggml.tokens' is missing or empty"
    else:
        yield from _token_problems(header)
        yield from _side_array_problems(header)
        yield from _special_problems(header)
        if model in ("gpt2", "gemma4", "hybriddna", "whitespace"):
            yield from _merge_problems(header)
        elif model in ("llama", "plamo2"):
            yield from _byte_token_problems(header, needs_hex=model == "plamo2")
        elif model == "t5":
            yield from _character_map_problems(header)
        elif model == "rwkv":
            yield from _rwkv_problems(header)


def _token_problems(header: GGUFHeader) -> Iterator[str]:
    # llama.cpp reads up to a NUL, and names the empty ones apart itself.
    tokens = [token for each in header.tokens if (token := each.partition("\0")[0])]
    if len(set(tokens)) < len(tokens):
        token, count = Counter(tokens).most_common(1)[0]
        yield f"token {token!r:.60} is in the vocabulary {count} times"


def _side_array_problems(header: GGUFHeader) -> Iterator[str]:
    for key, kinds in (("token_type", ("[i32]",)), ("scores", ("[f32]", "[i32]"))):
        name = f"tokenizer.ggml.{key}"
        if name not in header.metadata:
            continue
        if header.types[name] not in kinds:
            yield f"{name!r} is of type {header.types[name]}, not {' or '.join(kinds)}"
        elif len(header.metadata[name]) < len(header.tokens):
            yield f"{name!r} has {len(header.metadata[name]):,} entries for {len(header.tokens):,} tokens"
        elif key == "token_type":
            yield from _byte_type_problems(header)
        elif any(score != score for score in header.metadata[name]):
            yield f"{name!r} holds a NaN"


def _byte_type_problems(header: GGUFHeader) -> Iterator[str]:
    # llama.cpp takes characters 3 and 4 of such a token as hexadecimal digits, whatever stands there, and aborts on
    # one where the tokenizer has no use for it.
    if header.metadata["tokenizer.ggml.model"] in ("bert", "rwkv"):
        if _BYTE_TYPE in header.metadata["tokenizer.ggml.token_type"]:
            yield f"it has tokens of type byte, which a {header.metadata['tokenizer.ggml.model']} vocabulary has not"
        return
    pattern = re.compile(r"<0x[0-9A-Fa-f]{2}>")
    for index, (token, kind) in enumerate(
        zip(header.tokens, header.metadata["tokenizer.ggml.token_type"], strict=False)
    ):
        if kind == _BYTE_TYPE and not pattern.fullmatch(token):
            yield f"token {index} is of type byte, and its text is {token!r:.40}, not like '<0x0A>'"
            return


def _special_problems(header: GGUFHeader) -> Iterator[str]:
    for key in _ENDS:
        name = f"tokenizer.ggml.{key}_token_id"
        if name not in header.metadata:
            continue
        index = header.metadata[name]
        if header.types[name] != "u32":
            yield f"{name!r} is of type {header.types[name]}, not u32"
        elif index >= len(header.tokens):
            yield f"{name!r} is {index:,}: the vocabulary has {len(header.tokens):,} tokens"
    for key in ("add_bos_token", "add_eos_token", "add_space_prefix"):
        name = f"tokenizer.ggml.{key}"
        if header.types.get(name, "bool") != "bool":
            yield f"{name!r} is of type {header.types[name]}, not bool"
        elif key in ("add_bos_token", "add_eos_token") and header.metadata.get(name):
            marker = f"tokenizer.ggml.{key[4:7]}_token_id"
            if marker not in header.metadata and header.metadata["tokenizer.ggml.model"] != "llama":
                yield f"{name!r} is set and {marker!r} is missing"
    # Where a file names no special tokens, llama.cpp takes the usual numbers: 11 for gpt2, up to 103 for bert.
    least = {"gpt2": 12, "bert": 104}.get(str(header.metadata["tokenizer.ggml.model"]), 4)
    if len(header.tokens) < least:
        yield f"a vocabulary of {len(header.tokens)} tokens is too small"


def _merge_problems(header: GGUFHeader) -> Iterator[str]:
    name = "tokenizer.ggml.merges"
    if name not in header.metadata:
        if header.metadata.get("tokenizer.ggml.pre") != "kimi-k2":  # llama.cpp reads that one without
            yield f"{name!r} is missing"
        return
    if header.types[name] != "[str]":
        yield f"{name!r} is of type {header.types[name]}, not a list of texts"
        return
    for index, merge in enumerate(header.metadata[name]):
        if " " not in merge[1:-1]:
            yield f"{name}[{index}] is {merge!r:.40}, not two pieces with a space between"
            return


def _byte_token_problems(header: GGUFHeader, *, needs_hex: bool) -> Iterator[str]:
    known = set(header.tokens)
    for byte in range(256):
        if f"<0x{byte:02X}>" not in known and (needs_hex or byte > 127 or chr(byte) not in known):
            yield f"the vocabulary has no token for the byte 0x{byte:02X}, so it cannot read every text"
            return


def _character_map_problems(header: GGUFHeader) -> Iterator[str]:
    name = "tokenizer.ggml.precompiled_charsmap"
    if name not in header.metadata:
        return
    if header.types[name] not in ("[u8]", "[i8]"):
        yield f"{name!r} is of type {header.types[name]}, not a list of bytes"
        return
    content = bytes(byte & 0xFF for byte in header.metadata[name])
    if len(content) < 4 or int.from_bytes(content[:4], "little") + 4 >= len(content):
        yield f"{name!r} is cut off"


def _rwkv_problems(header: GGUFHeader) -> Iterator[str]:
    # llama.cpp goes round for ever on a byte that begins tokens and is none itself.
    known = set(header.tokens)
    for byte in range(256):
        spellings = {f"\\x{byte:02x}"}
        if byte < 128:
            spellings |= {chr(byte), repr(chr(byte))[1:-1]} | ({f"\\{chr(byte)}"} if chr(byte) in "\\'\"" else set())
        if not spellings & known:
            yield f"the vocabulary has no token for the byte 0x{byte:02X}, so it cannot read every text"
            return
