"""stable-diffusion.cpp: reads the same checkpoint and makes the whole picture itself."""

import sys
from typing import TYPE_CHECKING

from benchmarks.peers.base import PicturePeer
from benchmarks.stable_diffusion_cpp import Request

if TYPE_CHECKING:
    from benchmarks.subjects.image import Picture


class StableDiffusionCpp(PicturePeer):
    """The library that its Python package was built with, as its own command line sets it up."""

    name = "stable-diffusion-cpp"
    packages = ("stable-diffusion-cpp-python",)

    def commands(self, picture: "Picture") -> dict[str, tuple[str, ...]]:
        """Without flash attention, which is its default, and with it in the UNet."""
        labels = {False: "", True: "flash attention"}
        return {label: _command(_request(picture, flash)) for flash, label in labels.items()}


def _command(request: Request) -> tuple[str, ...]:
    return (sys.executable, "-m", "benchmarks.stable_diffusion_cpp", request.text())


def _request(picture: "Picture", flash_attention: bool) -> Request:
    options = picture.options()
    return Request(
        checkpoint=str(picture.checkpoint),
        prompt=options.prompt,
        negative=options.negative,
        size=picture.size,
        steps=options.steps,
        cfg_scale=options.cfg_scale,
        seed=options.seed,
        sampler=options.sampler,
        schedule=options.schedule,
        threads=picture.threads,
        flash_attention=flash_attention,
    )
