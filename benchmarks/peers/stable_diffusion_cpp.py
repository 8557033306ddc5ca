"""stable-diffusion.cpp: reads the same checkpoint and makes the whole picture itself."""

import sys
from typing import TYPE_CHECKING, ClassVar

from benchmarks.peers.base import PicturePeer
from benchmarks.stable_diffusion_cpp import Request

if TYPE_CHECKING:
    from benchmarks.subjects.image import Picture


class StableDiffusionCpp(PicturePeer):
    """The library that its Python package was built with, as its own command line sets it up."""

    name = "stable-diffusion-cpp"
    packages = ("stable-diffusion-cpp-python",)
    flash_attention: ClassVar[bool] = False

    def command(self, picture: "Picture") -> tuple[str, ...]:
        options = picture.options()
        request = Request(
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
            flash_attention=self.flash_attention,
        )
        return (sys.executable, "-m", "benchmarks.stable_diffusion_cpp", request.text())


class FlashStableDiffusionCpp(StableDiffusionCpp):
    """The same with flash attention in the UNet: `--diffusion-fa` of its command line."""

    name = "stable-diffusion-cpp-fa"
    flash_attention = True
