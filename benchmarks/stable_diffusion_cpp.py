"""`python -m benchmarks.stable_diffusion_cpp REQUEST OUTPUT`: a whole picture by stable-diffusion.cpp.

REQUEST is a `Request` as JSON. Imports nothing of ours, so that its process is charged for nothing of ours.

Calls the C interface as stable-diffusion-cpp-python declares it: its defaults are those of the command line
of stable-diffusion.cpp. The package's own class would keep all weights to the end, and leave out the noise of
Euler a's steps, because its default of eta is 0.
"""

import ctypes
import json
import os
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

_WARNING = 2
"""SD_LOG_WARN; below are hundreds of lines."""


@dataclass(frozen=True)
class Request:
    """A picture to make. `size` is (width, height) in pixels; names are those of sdcomp, and of both."""

    checkpoint: str
    prompt: str
    negative: str
    size: tuple[int, int]
    steps: int
    cfg_scale: float
    seed: int
    sampler: str
    schedule: str
    threads: int
    flash_attention: bool

    def text(self) -> str:
        """As JSON, for a command line."""
        return json.dumps(asdict(self))

    @staticmethod
    def parse(text: str) -> "Request":
        """What `text` wrote."""
        fields = json.loads(text)
        return Request(**fields | {"size": tuple(fields["size"])})


def make_picture(request: Request) -> "Image":
    """The picture. Ends the process with a message where the library refuses."""
    from PIL import Image
    from stable_diffusion_cpp import stable_diffusion_cpp as api  # type: ignore[import-untyped]

    report = api.sd_log_callback(_report)
    api.sd_set_log_callback(report, None)
    context = api.new_sd_ctx(ctypes.byref(context_parameters(api, request)))
    if not context:
        sys.exit(f"{request.checkpoint}: stable-diffusion.cpp cannot load it")
    found = api.generate_image(context, ctypes.byref(picture_parameters(api, request)))
    if not found:
        sys.exit(f"{request.checkpoint}: stable-diffusion.cpp made no picture")
    image = found[0]
    size = (image.width, image.height)
    picture = Image.frombytes("RGB", size, ctypes.string_at(image.data, 3 * image.width * image.height))
    api.free_sd_ctx(context)
    return picture


def context_parameters(api: Any, request: Request) -> Any:
    """`api` is the module with the declarations. By default noise is that of a GPU, which is ours too, and
    weights are given up when their network is done.
    """
    parameters = api.sd_ctx_params_t()
    api._lib.sd_ctx_params_init(ctypes.byref(parameters))
    parameters.model_path = os.fsencode(request.checkpoint)
    parameters.n_threads = request.threads
    parameters.diffusion_flash_attn = request.flash_attention
    return parameters


def picture_parameters(api: Any, request: Request) -> Any:
    """By default eta is the sampler's own: 1 for Euler a."""
    parameters = api.sd_img_gen_params_t()
    api._lib.sd_img_gen_params_init(ctypes.byref(parameters))
    parameters.prompt = request.prompt.encode()
    parameters.negative_prompt = request.negative.encode()
    parameters.width, parameters.height = request.size
    parameters.seed = request.seed
    sampling = parameters.sample_params
    sampling.sample_method = api._lib.str_to_sample_method(request.sampler.encode())
    sampling.scheduler = api._lib.str_to_scheduler(request.schedule.encode())
    sampling.sample_steps = request.steps
    sampling.guidance.txt_cfg = request.cfg_scale
    return parameters


def _report(level: int, text: bytes, data: int | None) -> None:
    del data
    if level >= _WARNING:
        print(text.decode(errors="replace"), end="", file=sys.stderr)


def main() -> None:
    """Makes the picture that the command line describes."""
    request, output = sys.argv[1:]
    make_picture(Request.parse(request)).save(output)


if __name__ == "__main__":
    main()
