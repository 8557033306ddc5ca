"""Pictures: from decoded arrays to PNG files that tell how they were made, in the way of A1111's WebUI."""

import json
import os
import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sdcomp.errors import ExecutionError, UsageError
from sdcomp.runtime.samplers import sampler_named
from sdcomp.runtime.schedules import schedule_named

if TYPE_CHECKING:
    from PIL.Image import Image

_NUMBER_PATTERN = re.compile(r"%(0[1-9])?d")


def to_images(decoded: NDArray[np.float32]) -> "list[Image]":
    """RGB pictures from the decoder's output, float [B, 3, H, W] in [-1, 1]; values beyond are clamped.

    Rounds to the nearest of 256 levels, halves to even, as diffusers' `VaeImageProcessor` does. Raises
    ExecutionError if a number is not finite.
    """
    from PIL import Image

    if not np.isfinite(decoded).all():
        raise ExecutionError("the decoded picture has numbers that are not finite; check the VAE's weights")
    unit = np.clip(decoded * 0.5 + 0.5, 0.0, 1.0)
    pixels = np.round(unit * 255.0).astype(np.uint8).transpose(0, 2, 3, 1)
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in pixels]


def check_target(path: Path) -> Path:
    """The file that `path` names, with links followed. Worth calling before the work of making the picture.

    Raises UsageError if a PNG cannot be written there.
    """
    target = path.resolve()
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: pictures are PNG files; name it {path.stem}.png")
    if not os.path.isdir(target.parent):
        raise UsageError(f"{path}: the folder {target.parent} does not exist; make it first")
    if os.path.exists(target) and not os.path.isfile(target):
        raise UsageError(f"{path}: expected a file or nothing, found a folder or device; use another name")
    if not os.access(target.parent, os.W_OK):
        raise UsageError(f"{path}: the folder {target.parent} is not writable; choose another one")
    return target


def save_png(image: "Image", path: Path, parameters: str) -> None:
    """Writes a PNG with the text chunk `parameters`: tEXt, or iTXt where Latin-1 cannot hold it.

    The file appears whole or not at all. Raises UsageError as `check_target` does, ExecutionError if writing
    fails.
    """
    from PIL.PngImagePlugin import PngInfo

    target = check_target(path)
    partial = target.with_name(f".{uuid.uuid4().hex}.partial")
    info = PngInfo()
    info.add_text("parameters", _chunk_text(parameters))
    try:
        with partial.open("xb") as file:
            image.save(file, format="PNG", pnginfo=info)
        partial.replace(target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ExecutionError(f"{path}: cannot write the picture: {reason}; free space or move it") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def generation_parameters(
    *,
    prompt: str,
    negative: str,
    steps: int,
    sampler: str,
    schedule: str,
    cfg_scale: float,
    seed: int,
    width: int,
    height: int,
    model: str,
    adapters: Sequence[tuple[str, float]],
    version: str,
) -> str:
    """How a picture was made, in the format of A1111's WebUI (modules/processing.py, `create_infotext`).

    `sampler` and `schedule` are this package's names and are written as A1111 names them; width and height
    are pixels; `adapters` are names with strengths; `version` is this package's. Raises UsageError for
    an unknown sampler or schedule.
    """
    fields = {
        "Steps": str(steps),
        "Sampler": sampler_named(sampler).label,
        "Schedule type": schedule_named(schedule).label,
        "CFG scale": f"{cfg_scale:g}",
        "Seed": str(seed),
        "Size": f"{width}x{height}",
        "Model": model,
        "Adapters": ", ".join(f"{name}: {strength:g}" for name, strength in adapters),
        "Version": f"sdcomp {version}",
    }
    settings = ", ".join(f"{key}: {_quoted(value)}" for key, value in fields.items() if value)
    lines = [prompt, f"Negative prompt: {negative}" if negative else "", settings]
    return "\n".join(line for line in lines if line)


def numbered(path: Path, index: int, count: int) -> Path:
    """The file of picture `index` (from 0) of `count`; files are numbered from 1.

    A name with `%d` or `%03d` gets the number there; otherwise out.png becomes out-1.png, out-2.png, … if
    there are several.
    """
    number = index + 1
    if _NUMBER_PATTERN.search(path.name):
        return path.with_name(_NUMBER_PATTERN.sub(lambda pattern: pattern.group() % number, path.name))
    return path if count == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def _quoted(value: str) -> str:
    """A1111's rule: values that its parser would split are written as JSON strings."""
    return json.dumps(value, ensure_ascii=False) if re.search(r"[,:\n]", value) else value


def _chunk_text(text: str) -> str:
    """Without what a text chunk cannot hold: NUL, and the halves of characters that bad file names bring."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
