"""A whole picture by both sides: one sampler loop, driven by the artifact's networks and by onnxruntime's."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite, log10
from pathlib import Path
from typing import Any

import numpy as np

from sdcomp.codegen.onnx.networks import NETWORKS
from sdcomp.compare.cases import Arrays, CompareOptions, Progress, model_path
from sdcomp.compare.difference import difference
from sdcomp.compare.sessions import OnnxModel
from sdcomp.runtime.context import Context
from sdcomp.runtime.library import Library
from sdcomp.runtime.model import Floats
from sdcomp.runtime.pipeline import GenerateOptions, Pipeline
from sdcomp.workers import Worker, peak_bytes


@dataclass(frozen=True)
class Picture:
    """`psnr` is 10 log10(1 / mean squared difference) in dB, of pixels from 0 to 1 before they are rounded to
    8 bits; infinite where the pictures are equal, 0 where one of them is not a number. Peaks are resident
    bytes of the whole process, over all networks.
    """

    prompt: str
    steps: int
    size: tuple[int, int]
    psnr: float
    peak_bytes: int
    onnx_peak_bytes: int


def compare_picture(
    artifact: Path,
    folder: Path,
    size: tuple[int, int],
    options: CompareOptions,
    threads: int,
    progress: Progress,
) -> Picture:
    """The same prompt, seed, sampler and steps by each side, in a process of its own, one after the other."""
    wanted = GenerateOptions(options.prompt, steps=options.steps, seed=options.seed, size=size)
    makers = {"the artifact": _serve_artifact, "onnxruntime": _serve_onnx}
    pictures: list[tuple[Floats, int]] = []
    for done, (name, maker) in enumerate(makers.items()):
        progress("picture", done, len(makers))
        with Worker(name, maker, artifact, folder, threads) as worker:
            pictures.append(worker.ask(wanted))
    (found, peak), (expected, onnx_peak) = pictures
    return Picture(options.prompt, options.steps, size, psnr(found, expected), peak, onnx_peak)


def psnr(found: Floats, expected: Floats) -> float:
    """Of pictures from -1 to 1; what lies outside is cut off, as it is in a file."""
    pixels = [np.clip(image / 2 + 0.5, 0, 1) for image in (found, expected)]
    mean_square = difference(*pixels).squares / expected.size
    if not isfinite(mean_square):
        return 0.0
    return 10 * log10(1 / mean_square) if mean_square else inf


def _serve_artifact(artifact: Path, folder: Path, threads: int) -> Callable[[GenerateOptions], Any]:
    """Options to pixels and the peak so far."""
    del folder
    pipeline = Pipeline(Library.open(artifact, threads, verify=False))
    return lambda options: (pipeline.pixels(options), peak_bytes())


def _serve_onnx(artifact: Path, folder: Path, threads: int) -> Callable[[GenerateOptions], Any]:
    """The same; the artifact gives the tokenizer and the facts of its manifest."""
    pipeline = _OnnxPipeline(Library.open(artifact, 1, verify=False), folder, threads)
    return lambda options: (pipeline.pixels(options), peak_bytes())


class _OnnxPipeline(Pipeline):
    """A pipeline whose networks are models of a folder; each is loaded when it is first needed."""

    def __init__(self, library: Library, folder: Path, threads: int) -> None:
        super().__init__(library)
        self._folder, self._threads = folder, threads
        self._models: dict[str, OnnxModel] = {}
        self._text = np.empty(0, np.float32)
        self._timestep = 0.0

    def hidden_states(self, context: Context, prompt: str) -> Floats:
        return self._run("text", {"input_ids": self.token_ids(prompt)[None]}, "last_hidden_state")

    def set_prompt(self, context: Context, size: tuple[int, int], text: Floats) -> None:
        self._text = text

    def set_timestep(self, context: Context, size: tuple[int, int], timestep: float, rows: int) -> None:
        self._timestep = timestep

    def noise(self, context: Context, size: tuple[int, int], latents: Floats, rows: int) -> Floats:
        feeds = {
            "sample": np.repeat(latents, rows, axis=0),
            "timestep": np.array([self._timestep], np.float32),
            "encoder_hidden_states": self._text,
        }
        return self._run("unet", feeds, "out_sample")

    def image(self, context: Context, size: tuple[int, int], latents: Floats) -> Floats:
        raw = latents / np.float32(self.manifest["scaling_factor"])
        return self._run("vae_decoder", {"latent_sample": raw}, "sample")

    def release(self, network: str) -> None:
        self._models.pop(network, None)

    def _run(self, network: str, feeds: Arrays, output: str) -> Floats:
        if network not in self._models:
            self._models[network] = OnnxModel(model_path(NETWORKS[network], self._folder), self._threads)
        model = self._models[network]
        found: Floats = model.run(model.prepared(feeds), [output])[output]
        return found
