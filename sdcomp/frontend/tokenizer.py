"""CLIP's byte-pair tokenizer (Radford et al. 2021) on the `tokenizers` library.

It equals `transformers.CLIPTokenizer`: the text is put in NFC, runs of whitespace become one space, and it is
lower-cased; HTML entities and mis-decoded text stay as they are (OpenAI's own code mends both); a literal
`<|endoftext|>` in the text is the token 49407.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sdcomp.errors import LoadError, UsageError

if TYPE_CHECKING:
    import tokenizers

VOCABULARY_SIZE = 49408
BEGIN_OF_TEXT = 49406
END_OF_TEXT = 49407
CONTEXT_LENGTH = 77

_BEGIN_NAME = "<|startoftext|>"
_END_NAME = "<|endoftext|>"
_WORD_END = "</w>"
_HEADER = "#version: 0.2"
_MERGES = VOCABULARY_SIZE - 2 * 256 - 2
_MAX_TEXT_BYTES = 1 << 20
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True)
class Tokens:
    """One prompt as the text encoder takes it.

    `ids` is int32 [77]: 49406, up to 75 tokens, 49407, padded with 49407 (the padding of CLIP-L).
    `truncated` is the number of tokens that did not fit.
    """

    ids: NDArray[np.int32]
    truncated: int


class Tokenizer:
    """Turns prompts into token numbers. Immutable: one may serve several threads."""

    def __init__(self, data: bytes) -> None:
        """`data` is what `to_bytes` returned. Raises LoadError if it is not a CLIP vocabulary."""
        self._data = data
        self._backend = _backend(_read_merges(data))

    @classmethod
    def default(cls) -> "Tokenizer":
        """The tokenizer of CLIP's standard vocabulary, from the package data. Loaded once."""
        return _default()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Tokenizer":
        """Reads what `to_bytes` wrote. Raises LoadError on any bytes that are not a CLIP vocabulary."""
        return cls(data)

    def to_bytes(self) -> bytes:
        """All that `from_bytes` needs: the merges as gzipped text, in the layout of a `merges.txt`."""
        return self._data

    def vocabulary(self) -> dict[str, int]:
        """The text of every token and its number, as in a `vocab.json`."""
        return dict(sorted(self._backend.get_vocab().items(), key=lambda item: item[1]))

    def encode(self, text: str) -> Tokens:
        """The tokens of one prompt. Raises UsageError if the text is not valid Unicode."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            where = f"character {error.start + 1} is {text[error.start]!a}"
            raise UsageError(f"the prompt is not valid Unicode: {where}; write it in UTF-8") from error
        words = self._backend.encode(text, add_special_tokens=False).ids
        kept = words[: CONTEXT_LENGTH - 2]
        ids = np.full(CONTEXT_LENGTH, END_OF_TEXT, dtype=np.int32)
        ids[0] = BEGIN_OF_TEXT
        ids[1 : 1 + len(kept)] = kept
        ids.flags.writeable = False
        return Tokens(ids, len(words) - len(kept))


@cache
def _default() -> Tokenizer:
    return Tokenizer((resources.files("sdcomp.frontend") / "data" / "clip_merges.txt.gz").read_bytes())


def _backend(merges: list[tuple[str, str]]) -> "tokenizers.Tokenizer":
    """The pipeline of transformers' CLIPTokenizer, stage by stage."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    backend = Tokenizer(
        models.BPE(
            vocab=_vocabulary(merges),
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix=_WORD_END,
            fuse_unk=False,
            unk_token=_END_NAME,
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in (_BEGIN_NAME, _END_NAME)]
    )
    return backend


def _vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Token text to token number: bytes, bytes that end a word, merges, markers.

    Raises LoadError if a merge joins tokens that do not exist yet, or makes one that does.
    """
    vocabulary = {token: number for number, token in enumerate(_byte_tokens())}
    for number, (left, right) in enumerate(merges, start=len(vocabulary)):
        if left not in vocabulary or right not in vocabulary:
            raise _damaged(f"merge {left!r} {right!r} joins tokens that no earlier merge made")
        if vocabulary.setdefault(left + right, number) != number:
            raise _damaged(f"merge {left!r} {right!r} makes a token that exists already")
    return vocabulary | {_BEGIN_NAME: BEGIN_OF_TEXT, _END_NAME: END_OF_TEXT}


def _byte_tokens() -> Iterator[str]:
    """Tokens 0 to 511: the 256 bytes as visible characters (GPT-2's alphabet), then as ends of words."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    characters = [chr(byte) for byte in visible]
    characters += [chr(256 + index) for index in range(256 - len(visible))]
    yield from characters
    yield from (character + _WORD_END for character in characters)


def _read_merges(data: bytes) -> list[tuple[str, str]]:
    """Unpacks and checks the serialized form, with bounded memory. Raises LoadError."""
    lines = _unpack(data).split("\n")
    if len(lines) != _MERGES + 2 or lines[0] != _HEADER or lines[-1]:
        raise _damaged(f"expected the line {_HEADER!r} and {_MERGES} merges, found {len(lines)} lines")
    merges = [line.split(" ") for line in lines[1:-1]]
    for number, parts in enumerate(merges, start=2):
        if len(parts) != 2:
            raise _damaged(f"line {number} should be two tokens, found {len(parts)}")
    return [(left, right) for left, right in merges]


def _unpack(data: bytes) -> str:
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        text = unpacker.decompress(data, _MAX_TEXT_BYTES)
    except zlib.error as error:
        raise _damaged(f"expected gzipped text, found {error}") from error
    if not unpacker.eof or unpacker.unused_data:
        raise _damaged(f"expected one whole gzip stream that unpacks to at most {_MAX_TEXT_BYTES} bytes")
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(f"expected UTF-8, found another encoding at byte {error.start}") from error


def _damaged(reason: str) -> LoadError:
    return LoadError(f"tokenizer vocabulary: {reason}; it is damaged: build or install again")
