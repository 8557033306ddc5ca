"""The tokenizer against CLIPTokenizer of transformers and instant-clip-tokenizer; its data against damage."""

import gzip
import importlib.util
import json
import random
import re
import unicodedata
from importlib import resources
from pathlib import Path

import instant_clip_tokenizer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from sdcomp.errors import LoadError, UsageError
from sdcomp.frontend.tokenizer import BEGIN_OF_TEXT, END_OF_TEXT, Tokenizer

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_vocabulary.py"

VOCABULARY = """
a photo of an astronaut riding horse masterpiece best quality ((detailed)) (red:1.3) [blurry] cat's
I'LL don't they're we've I'm she'd HATSUNE miku 8k 4K 1girl, 2024 12345 half-life e.g.
http://x.y/?a=b&c=d &amp; &#39; <lora:x:1> l'été naïve façade Ångström Straße İstanbul ŁÓDŹ señor
Ελλάδα ΟΔΟΣ Москва ёлка שלום مرحبا नमस्ते ไทย 日本語 猫耳 漫画 한국어 ｆｕｌｌ ﬁre Ⅻ ½ ٣ x² ½ € “quoted” ‘it’s’
don’t — … 🐱 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇯🇵 ❤️ ™ ∑ ☃ e\u0301 n\u0303 a\u030a\u0323 q\u0307 \u0344
\u1100\u1161\u11a8 \u0958 \u200d \u200b \ufeff \u00ad \x00 \x07 \x1b \x7f \ufffd \U0010ffff
\U000e0041 ' '' ''s 's <|endoftext|> <|startoftext|> <|EndOfText|> <|end <| |> </w> Ġ
supercalifragilisticexpialidocious llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch
"""
WORDS = VOCABULARY.split()
YOUNG = re.compile(
    "[\u1c89\u1c8a\ua7cb-\ua7dc\U000105c0-\U000105f3\U00010d40-\U00018fff\U0001ccf0-\U0001ccf9"
    "\U0001e5d0-\U0001e5fa\U0002ebf0-\U0002ee5d]"
)
SPACES = (
    " ",
    " ",
    " ",
    " ",
    ", ",
    "",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\u00a0",
    "\u3000",
    "\u2028",
    "\x0b",
    "\x1c",
    "\u200a",
    "\x85",
)


def _random_texts(seed, count):
    """Prompts of words and separators of every kind, with stray characters from all over Unicode."""
    source = random.Random(seed)
    for _ in range(count):
        pieces = []
        for _ in range(source.choice([1, 2, 3, 5, 8, 20, 60])):
            pieces += [source.choice(WORDS), source.choice(SPACES)]
        if source.random() < 0.5:
            planes = [
                source.randrange(0x20, 0x250),
                source.randrange(0x250, 0xD800),
                source.randrange(0xE000, 0x1FFFF),
            ]
            pieces.insert(source.randrange(len(pieces)), chr(source.choice(planes)))
        yield "".join(pieces)


@pytest.fixture(scope="module")
def merges():
    return gzip.decompress(Tokenizer.default().to_bytes()).decode("utf-8")


@pytest.fixture(scope="module")
def reference(merges, tmp_path_factory):
    """CLIPTokenizer from the two files that every CLIP model is published with."""
    folder = tmp_path_factory.mktemp("clip")
    pairs = [line.split(" ") for line in merges.split("\n")[1:-1]]
    characters = list(bytes_to_unicode().values())
    tokens = characters + [character + "</w>" for character in characters]
    tokens += ["".join(pair) for pair in pairs] + ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    return CLIPTokenizerFast.from_pretrained(folder)


@pytest.fixture(scope="module")
def instant():
    return instant_clip_tokenizer.Tokenizer()


def _assert_equals_reference(reference, text):
    tokens = Tokenizer.default().encode(text)
    expected = reference(text, padding="max_length", truncation=True, max_length=77)["input_ids"]
    assert tokens.ids.tolist() == expected, repr(text)
    whole = reference(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert tokens.truncated == max(0, len(whole) - 75), repr(text)


def test_thousands_of_prompts_equal_transformers(reference):
    for text in _random_texts(seed=1, count=3000):
        _assert_equals_reference(reference, text)


@pytest.mark.parametrize("word", ["", " ", *WORDS])
def test_each_word_alone_equals_transformers(reference, word):
    _assert_equals_reference(reference, word)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=st.text(max_size=60))
def test_any_text_equals_transformers(reference, text):
    _assert_equals_reference(reference, text)


def _instant_differs(text):
    """The texts where instant-clip-tokenizer differs from CLIPTokenizer, which is the one to follow.

    - text that is not in NFC: it does not compose;
    - the two markers, in any case: it takes them for ordinary text and splits them elsewhere;
    - capital sigma: at the end of a word it becomes ς; CLIPTokenizer lower-cases without context, to σ;
    - letters and digits of Unicode 15.1 and later, with their blocks: its tables are older.
    """
    markers = re.search(r"<\|startoftext\|>|<\|endoftext\|>", text, re.IGNORECASE)
    return bool(not unicodedata.is_normalized("NFC", text) or markers or "Σ" in text or YOUNG.search(text))


def test_thousands_of_prompts_equal_instant_clip_tokenizer(instant):
    texts = [text for text in _random_texts(seed=2, count=6000) if not _instant_differs(text)]
    assert len(texts) > 2000
    for text in texts:
        expected = instant.encode(text)
        tokens = Tokenizer.default().encode(text)
        assert tokens.ids[1:76].tolist() == (expected + [END_OF_TEXT] * 75)[:75], repr(text)
        assert tokens.truncated == max(0, len(expected) - 75), repr(text)


def test_layout_of_a_prompt():
    tokens = Tokenizer.default().encode("a photo of an astronaut")
    assert tokens.ids.dtype == np.int32
    assert tokens.ids.shape == (77,)
    assert tokens.ids.tolist() == [BEGIN_OF_TEXT, 320, 1125, 539, 550, 18376] + [END_OF_TEXT] * 71
    assert tokens.truncated == 0


@pytest.mark.parametrize(("words", "truncated"), [(74, 0), (75, 0), (76, 1), (5000, 4925)])
def test_truncation_keeps_75_tokens_and_the_end(words, truncated):
    tokens = Tokenizer.default().encode("cat " * words)
    assert tokens.truncated == truncated
    assert (tokens.ids[1:75] == tokens.ids[1]).all()
    assert tokens.ids[76] == END_OF_TEXT


def test_text_that_is_not_unicode_is_refused():
    with pytest.raises(UsageError, match=r"character 5 is '\\udcff'"):
        Tokenizer.default().encode("cat \udcff")


def test_serialized_form_is_complete():
    copy = Tokenizer.from_bytes(Tokenizer.default().to_bytes())
    assert copy.to_bytes() == Tokenizer.default().to_bytes()
    assert copy.encode("Ünïcode 猫").ids.tolist() == Tokenizer.default().encode("Ünïcode 猫").ids.tolist()


def _packed(text):
    return gzip.compress(text.encode("utf-8"), mtime=0)


def _damaged(merges):
    """Every way of damage that has a check of its own."""
    data, lines = _packed(merges), merges.split("\n")
    return {
        "empty": b"",
        "not gzip": b"#version: 0.2\ni n\n",
        "truncated": data[: len(data) // 2],
        "cut by one byte": data[:-1],
        "flipped bit": data[:5000] + bytes([data[5000] ^ 16]) + data[5001:],
        "trailing bytes": data + b"x",
        "not UTF-8": gzip.compress(b"\xff\xfe" + merges.encode("utf-8")),
        "too few": _packed("\n".join([*lines[:-2], ""])),
        "too many": _packed("\n".join([*lines[:-1], "i n", ""])),
        "header": _packed(merges.replace("#version: 0.2", "#version: 0.3")),
        "three parts": _packed(merges.replace("\ni n\n", "\ni n g\n")),
        "unknown part": _packed(merges.replace("\ni n\n", "\ni nope\n")),
        "repeated": _packed(merges.replace("\nt h\n", "\ni n\n")),
        "repeats a byte": _packed(merges.replace("\nt h\n", "\n t\n")),
    }


def test_damaged_data_is_refused(merges):
    for name, data in _damaged(merges).items():
        with pytest.raises(LoadError, match=r"tokenizer vocabulary: .*it is damaged"):
            pytest.fail(f"accepted: {name}: {Tokenizer.from_bytes(data)}")


def test_a_small_file_cannot_unpack_to_a_large_text():
    with pytest.raises(LoadError, match="unpacks to at most 1048576 bytes"):
        Tokenizer.from_bytes(gzip.compress(bytes(1 << 26)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(noise=st.binary(max_size=200), position=st.integers(0, 200_000))
def test_garbage_never_gets_past_load_error(noise, position):
    whole = Tokenizer.default().to_bytes()
    for data in (noise, whole[:position] + noise):
        with pytest.raises(LoadError):
            Tokenizer.from_bytes(data)


def _script():
    spec = importlib.util.spec_from_file_location("make_vocabulary", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_script_remakes_the_data_from_the_published_layout(merges):
    published = (
        '"bpe_simple_vocab_16e6.txt#version: 0.2\n' + merges.split("\n", 1)[1] + "un used</w>\nmer ges</w>\n"
    )
    remade = _script().package_data(published)
    assert remade == _script().package_data(published)
    assert gzip.decompress(remade).decode("utf-8") == merges


def test_licence_of_the_vocabulary_is_shipped():
    folder = resources.files("sdcomp.frontend") / "data"
    licence = (folder / "LICENSE-vocabulary").read_text(encoding="utf-8")
    assert "https://github.com/openai/CLIP" in licence
    assert "MIT License\n\nCopyright (c) 2021 OpenAI" in licence
    assert len((folder / "clip_merges.txt.gz").read_bytes()) < 1_500_000
