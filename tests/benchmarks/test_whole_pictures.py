"""Peers that make whole pictures: what they are asked for, and what is done with their pictures."""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import stable_diffusion_cpp
from benchmarks.__main__ import main
from benchmarks.peers.base import PicturePeer
from benchmarks.peers.registry import PICTURE_PEERS
from benchmarks.peers.stable_diffusion_cpp import FlashStableDiffusionCpp, StableDiffusionCpp
from benchmarks.records import Record
from benchmarks.stable_diffusion_cpp import Request
from benchmarks.subjects import image
from benchmarks.subjects.image import Picture, measure_image
from sdcomp.errors import ExecutionError

PICTURE = Picture(Path("model.safetensors"), Path("model.so"), (96, 64), steps=3, threads=2)
COPY = "import shutil, sys; shutil.copy(sys.argv[{source}], sys.argv[-1])"


@dataclass(frozen=True)
class Copier(PicturePeer):
    """Its picture is a file."""

    file: Path

    name = "copier"
    packages = ()

    def command(self, picture: Picture) -> tuple[str, ...]:
        return (sys.executable, "-c", COPY.format(source=1), str(self.file))


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Picture:
    """Ours is a file too: the one in the place of the artifact."""
    monkeypatch.setattr(image, "SDCOMP", (sys.executable, "-c", COPY.format(source=2)))
    return Picture(Path("unread"), painted(tmp_path / "ours.png", seed=0), (96, 64), steps=3, threads=2)


def painted(path: Path, seed: int, size: tuple[int, int] = (96, 64)) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def measured(picture: Picture, peer: PicturePeer, folder: Path) -> tuple[list[Record], list[str]]:
    lines: list[str] = []
    return list(measure_image(picture, [peer], 1, folder, lines.append)), lines


def test_a_peer_is_a_record(picture: Picture, tmp_path: Path) -> None:
    records, lines = measured(picture, Copier(picture.artifact), tmp_path)
    assert [record.peer for record in records] == ["copier"]
    (line,) = lines
    assert "inf dB" in line


def test_another_picture_is_noticed(picture: Picture, tmp_path: Path) -> None:
    other = painted(tmp_path / "other.png", seed=1)
    with pytest.raises(ExecutionError, match="copier: makes another picture"):
        measured(picture, Copier(other), tmp_path)


def test_another_size_is_noticed(picture: Picture, tmp_path: Path) -> None:
    wide = painted(tmp_path / "wide.png", seed=0, size=(128, 64))
    with pytest.raises(ExecutionError, match=r"shape \[64, 96, 3\], found \[64, 128, 3\]"):
        measured(picture, Copier(wide), tmp_path)


def test_failure_is_told(picture: Picture, tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match="the picture of copier: ended with code 1"):
        measured(picture, Copier(tmp_path / "absent.png"), tmp_path)


def test_missing_package_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(StableDiffusionCpp, "packages", ("no-such-package",))
    arguments = ["--model", "m", "--artifact", "a", "--peers", "stable-diffusion-cpp"]
    assert main(["image", *arguments]) == 0
    assert "stable-diffusion-cpp: left out: pip install no-such-package" in capsys.readouterr().out
    assert main(["unet", *arguments]) == 2
    assert "stable-diffusion-cpp is unknown" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "flash"), [("stable-diffusion-cpp", False), ("stable-diffusion-cpp-fa", True)]
)
def test_command_of_stable_diffusion_cpp(name: str, flash: bool) -> None:
    *command, text = PICTURE_PEERS[name].command(PICTURE)
    assert command == [sys.executable, "-m", "benchmarks.stable_diffusion_cpp"]
    request, options = Request.parse(text), PICTURE.options()
    assert request.flash_attention is flash
    assert (request.checkpoint, request.size, request.threads) == ("model.safetensors", (96, 64), 2)
    for field in ("prompt", "negative", "steps", "cfg_scale", "seed", "sampler", "schedule"):
        assert getattr(request, field) == getattr(options, field)
    assert json.loads(text)["sampler"] == "euler_a"


def test_library_is_asked_for_the_same() -> None:
    """By the declarations and defaults of the library itself."""
    package = pytest.importorskip("stable_diffusion_cpp")
    peers = (StableDiffusionCpp(), FlashStableDiffusionCpp())
    request, flash = (Request.parse(peer.command(PICTURE)[-1]) for peer in peers)
    context = stable_diffusion_cpp.context_parameters(package.stable_diffusion_cpp, request)
    assert (context.model_path, context.n_threads) == (b"model.safetensors", 2)
    assert (context.diffusion_flash_attn, context.free_params_immediately) == (False, True)
    assert context.rng_type == package.RNGType.CUDA_RNG
    assert context.sampler_rng_type in (package.RNGType.CUDA_RNG, package.RNGType.RNG_TYPE_COUNT)
    assert stable_diffusion_cpp.context_parameters(package.stable_diffusion_cpp, flash).diffusion_flash_attn
    asked = stable_diffusion_cpp.picture_parameters(package.stable_diffusion_cpp, request)
    assert (asked.width, asked.height, asked.seed, asked.batch_count) == (96, 64, 42, 1)
    assert (asked.prompt, asked.negative_prompt) == (request.prompt.encode(), b"")
    sampling = asked.sample_params
    assert sampling.sample_method == package.SampleMethod.EULER_A_SAMPLE_METHOD
    assert sampling.scheduler == package.Scheduler.DISCRETE_SCHEDULER
    assert (sampling.sample_steps, sampling.guidance.txt_cfg) == (3, 7)
    assert math.isinf(sampling.eta), "the sampler's own, which for Euler a is 1"
