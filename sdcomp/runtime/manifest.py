"""Reads the manifest of an artifact as data.

No code of the file runs, so it may be a stranger's, or for another machine.
"""

import json
import mmap
from pathlib import Path
from typing import Any

from sdcomp.errors import ArtifactError
from sdcomp.runtime.payload import find_payload, hash_image

_MAGIC = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
_START = b'{"sdcomp": "'
_LIMIT = 64 << 20
_MOST_CANDIDATES = 16


def is_library(path: Path) -> bool:
    """Whether a file begins like a shared library. Raises ArtifactError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(4) in _MAGIC
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror or error}") from None


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, a JSON object that stands as a string constant in the library.

    Raises ArtifactError for a file that is not an artifact, or whose code or trailer is damaged; the payload
    is not read.
    """
    if not is_library(path):
        raise ArtifactError(f"{path}: not a shared library (ELF or Mach-O), so not an artifact of sdcomp")
    payload_path, trailer = find_payload(path)
    own_payload = payload_path == path
    image_bytes = trailer.payload_offset if own_payload else path.stat().st_size
    if own_payload and hash_image(path, image_bytes) != trailer.image_hash:
        raise ArtifactError(f"{path}: its code is damaged; copy or build it again")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), image_bytes, access=mmap.ACCESS_READ) as image:
        manifest = _find(image)
    if manifest is None:
        raise ArtifactError(f"{path}: has no manifest of this version; build it again")
    return manifest


def _find(image: mmap.mmap) -> dict[str, Any] | None:
    """The first string constant that is a manifest, among the first few that begin like one."""
    begin = -1
    for _ in range(_MOST_CANDIDATES):
        begin = image.find(_START, begin + 1)
        end = image.find(b"\0", begin, begin + _LIMIT) if begin >= 0 else -1
        manifest = _parse(image[begin:end]) if end >= 0 else None
        if begin < 0 or manifest is not None:
            return manifest
    return None


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("programs"), list) else None
