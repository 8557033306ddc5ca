"""What the tensors of a checkpoint cannot tell: from an option, else its metadata, else the family's rule."""

import math
import re
from dataclasses import replace
from typing import NoReturn

from sdcomp.errors import FamilyError, UsageError
from sdcomp.frontend.checkpoint import Checkpoint
from sdcomp.frontend.config import NORM_GROUPS, TextEncoderConfig, UNetConfig
from sdcomp.frontend.safetensors import quoted

SD1_HEADS = 8
SD1_SCALING_FACTOR = 0.18215
CLIP_HEAD_CHANNELS = 64

PREDICTIONS = {"eps": "eps", "epsilon": "eps", "v": "v", "v_prediction": "v", "v-prediction": "v"}


class Settings:
    """What tensors cannot tell. Every answer leaves a note that says where it comes from."""

    def __init__(self, checkpoint: Checkpoint, notes: list[str]) -> None:
        self._checkpoint = checkpoint
        self._notes = notes

    def prediction(self, option: str | None) -> str:
        """What the UNet predicts: the noise ("eps"). Raises FamilyError for v-prediction."""
        if option is not None and option not in PREDICTIONS:
            raise UsageError(f"prediction {option!r} is unknown; expected one of {', '.join(PREDICTIONS)}")
        stated = self._checkpoint.metadata.get("modelspec.prediction_type")
        found, source = option, "given as an option"
        if found is None and stated is not None:
            found, source = stated, "from the metadata modelspec.prediction_type"
        elif found is None and "v_pred" in self._checkpoint.ignored:
            found, source = "v", "from the marker tensor v_pred"
        elif found is None:
            found, source = "eps", "the rule of Stable Diffusion 1.x"
        if PREDICTIONS.get(found) != "eps":
            what = f"prediction type {quoted(found)} ({source})"
            raise FamilyError(
                f"{self._checkpoint.path}: {what} is not supported, only eps is; if that is wrong, "
                "give the prediction eps as an option"
            )
        self._notes.append(f"The UNet predicts the noise (eps): {source}.")
        return "eps"

    def with_heads(self, unet: UNetConfig, option: int | None) -> UNetConfig:
        """The attention heads of the UNet: a fixed count, or, by metadata, a fixed width of one head."""
        if option is not None and option < 1:
            raise UsageError(f"{option} attention heads are too few; expected 1 or more")
        stated, width = self._integer("sdcomp.unet.heads"), self._integer("sdcomp.unet.head_channels")
        if option is None and stated is None and width is not None:
            self._notes.append(f"A UNet attention head has {width} channels: from the file's metadata.")
            return replace(unet, heads=None, head_channels=width)
        heads, source = next(
            (value, source)
            for value, source in (
                (option, "given as an option"),
                (stated, "from the file's metadata"),
                (SD1_HEADS, "the rule of Stable Diffusion 1.x"),
            )
            if value is not None
        )
        self._notes.append(f"The UNet has {heads} attention heads: {source}.")
        return replace(unet, heads=heads)

    def with_text_heads(self, text: TextEncoderConfig) -> TextEncoderConfig:
        """CLIP's heads are 64 wide; where 64 does not divide the width, the widest below that does."""
        stated = self._integer("sdcomp.text.heads")
        widths = range(min(CLIP_HEAD_CHANNELS, text.width), 0, -1)
        rule = text.width // next(width for width in widths if text.width % width == 0)
        heads = rule if stated is None else stated
        source = "the rule of CLIP" if stated is None else "from the file's metadata"
        self._notes.append(f"The text encoder has {heads} attention heads: {source}.")
        return replace(text, heads=heads)

    def norm_groups(self) -> int:
        """How many groups of channels are normalised together, in the UNet and in the VAE."""
        stated = self._integer("sdcomp.norm_groups")
        if stated is None:
            return NORM_GROUPS
        self._notes.append(f"A group normalisation has {stated} groups: from the file's metadata.")
        return stated

    def scaling_factor(self) -> float:
        """`latents = scaling_factor * z` of the VAE."""
        stated = self._checkpoint.metadata.get("sdcomp.vae.scaling_factor")
        source = "the rule of Stable Diffusion 1.x" if stated is None else "from the file's metadata"
        try:
            factor = SD1_SCALING_FACTOR if stated is None else float(stated)
        except ValueError:
            factor = math.nan
        if not 0 < factor < math.inf:
            self._refuse("sdcomp.vae.scaling_factor", "a positive number")
        self._notes.append(f"The VAE's scaling factor is {factor}: {source}.")
        return factor

    def _integer(self, key: str) -> int | None:
        stated = self._checkpoint.metadata.get(key)
        if stated is None:
            return None
        if not re.fullmatch("[1-9][0-9]{0,5}", stated):
            self._refuse(key, "a positive integer")
        return int(stated)

    def _refuse(self, key: str, expected: str) -> NoReturn:
        found = quoted(self._checkpoint.metadata[key])
        raise FamilyError(f"{self._checkpoint.path}: its metadata {key} is {found}, expected {expected}")
