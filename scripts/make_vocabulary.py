"""Makes the package data of the CLIP tokenizer from a published package that carries OpenAI's vocabulary.

    pip download --no-deps clip-anytorch==2.6.0
    python scripts/make_vocabulary.py clip_anytorch-2.6.0-py3-none-any.whl

Any wheel with `bpe_simple_vocab_16e6.txt.gz` and OpenAI's MIT licence will do: the vocabulary is checked
against its SHA-256.
The output depends on the vocabulary alone, so a second run writes the same files.
"""

import argparse
import gzip
import hashlib
import sys
import zipfile
from pathlib import Path

VOCABULARY_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
MERGES = 49408 - 2 * 256 - 2
HEADER = "#version: 0.2"
DATA = Path(__file__).resolve().parent.parent / "sdcomp" / "frontend" / "data"

NOTICE = """\
clip_merges.txt.gz holds the first 48894 byte-pair merges of bpe_simple_vocab_16e6.txt.gz, the vocabulary of
OpenAI's CLIP (https://github.com/openai/CLIP), as published in the Python package {package}.
It was made by scripts/make_vocabulary.py. CLIP and its vocabulary are distributed under this licence:

"""


def package_data(vocabulary: str) -> bytes:
    """The merges that CLIP uses, below the header line of a `merges.txt`, compressed reproducibly.

    CLIP reads the first 48894 of the 262144 merges (openai/CLIP, simple_tokenizer.py).
    """
    merges = vocabulary.split("\n")[1 : 1 + MERGES]
    return gzip.compress("\n".join([HEADER, *merges, ""]).encode("utf-8"), compresslevel=9, mtime=0)


def read_wheel(path: Path) -> tuple[str, str]:
    """The vocabulary text and the licence text of a wheel. Exits with a message if either is not OpenAI's."""
    with zipfile.ZipFile(path) as wheel:
        vocabulary = wheel.read(_member(wheel, "bpe_simple_vocab_16e6.txt.gz"))
        licence = wheel.read(_member(wheel, "LICENSE")).decode("utf-8")
    if hashlib.sha256(vocabulary).hexdigest() != VOCABULARY_SHA256:
        sys.exit(
            f"{path}: bpe_simple_vocab_16e6.txt.gz is not OpenAI's; expected SHA-256 {VOCABULARY_SHA256}"
        )
    if "Copyright (c) 2021 OpenAI" not in licence:
        sys.exit(f"{path}: its LICENSE is not OpenAI's MIT licence; use clip-anytorch==2.6.0")
    return gzip.decompress(vocabulary).decode("utf-8"), licence


def _member(wheel: zipfile.ZipFile, name: str) -> str:
    found = [member for member in wheel.namelist() if member.rsplit("/", 1)[-1] == name]
    if len(found) != 1:
        sys.exit(f"{wheel.filename}: expected one {name}, found {len(found)}; use clip-anytorch==2.6.0")
    return found[0]


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("wheel", type=Path, help="a wheel that carries bpe_simple_vocab_16e6.txt.gz")
    wheel = parser.parse_args().wheel
    vocabulary, licence = read_wheel(wheel)
    package = "-".join(wheel.name.split("-")[:2])
    DATA.mkdir(parents=True, exist_ok=True)
    (DATA / "clip_merges.txt.gz").write_bytes(package_data(vocabulary))
    (DATA / "LICENSE-vocabulary").write_text(NOTICE.format(package=package) + licence, encoding="utf-8")


if __name__ == "__main__":
    main()
