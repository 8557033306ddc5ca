"""Pictures of a small model against diffusers' pipeline, fed the same noise; seeds, batches and metadata."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
from diffusers.schedulers import scheduling_euler_ancestral_discrete
from PIL import Image

import sdcomp
from sdcomp.errors import UsageError
from sdcomp.runtime.images import save_png
from sdcomp.runtime.pipeline import GenerateOptions, Pipeline
from sdcomp.runtime.rng import BatchNoise
from sdcomp.runtime.schedules import sigmas
from tests.artifacts import Builder, Built
from tests.runtime.oracle import Array, make_oracle
from tests.runtime.subjects import SUBJECTS, VARIANTS, prepare

OPTIONS = GenerateOptions("a lighthouse above the sea at dusk", "blurry", steps=20, cfg_scale=20.0, seed=7)
STEPS = 4
"""Of pictures that are only compared with each other."""


@dataclass(frozen=True)
class Opened:
    """An artifact as a model, and the files that it was made of."""

    model: Pipeline
    built: Built


@pytest.fixture(scope="module")
def opened(builder: Builder) -> Iterator[Opened]:
    prepared = prepare(builder, next(iter(SUBJECTS)), VARIANTS[0])
    with sdcomp.load(prepared.built.path, threads=2) as model:
        yield Opened(model, prepared.built)
    prepared.remove()


@pytest.fixture(scope="module")
def small(small_artifact: Path) -> Iterator[Pipeline]:
    with sdcomp.load(small_artifact, threads=1) as model:
        yield model


class KarrasAncestral(EulerAncestralDiscreteScheduler):
    """diffusers has this schedule only for Euler's method without fresh noise."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        super().set_timesteps(  # type: ignore[misc]
            num_inference_steps, device
        )
        other = euler(use_karras_sigmas=True)
        other.set_timesteps(num_inference_steps)
        self.sigmas, self.timesteps = other.sigmas, other.timesteps


SETTINGS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "linspace",
}


def euler(**options: Any) -> Any:
    return EulerDiscreteScheduler(**SETTINGS, **options)  # type: ignore[no-untyped-call]


SCHEDULERS: dict[tuple[str, str], Any] = {
    ("euler", "discrete"): euler(),
    ("euler", "karras"): euler(use_karras_sigmas=True),
    ("euler_a", "discrete"): EulerAncestralDiscreteScheduler(**SETTINGS),  # type: ignore[no-untyped-call]
    ("euler_a", "karras"): KarrasAncestral(**SETTINGS),  # type: ignore[no-untyped-call]
}


def diffusers_picture(opened: Opened, options: GenerateOptions, monkeypatch: pytest.MonkeyPatch) -> Array:
    """The picture u8[H,W,3] of diffusers' own loop, with our tokens and our noise."""
    oracle = make_oracle(opened.built.config, opened.built.checkpoint)
    scheduler = SCHEDULERS[options.sampler, options.schedule]
    pipeline: Any = StableDiffusionPipeline(  # type: ignore[no-untyped-call]
        oracle.vae, oracle.text, None, oracle.unet, scheduler, None, None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    width, height = opened.model.sizes[0]
    shape = (1, 4, height // opened.model.manifest["downscale"], width // opened.model.manifest["downscale"])
    noise = BatchNoise(options.seed, shape)
    monkeypatch.setattr(
        scheduling_euler_ancestral_discrete, "randn_tensor", lambda *_, **__: torch.from_numpy(noise())
    )
    ids = [opened.model.tokenize(text).ids for text in (options.negative, options.prompt)]
    states = torch.from_numpy(oracle.hidden_states(np.stack(ids)))
    images = pipeline(
        prompt_embeds=states[1:],
        negative_prompt_embeds=states[:1],
        latents=torch.from_numpy(noise()),
        num_inference_steps=options.steps,
        guidance_scale=options.cfg_scale,
        height=height,
        width=width,
        output_type="np",
    ).images
    picture: Array = np.round(images[0] * 255).astype(np.uint8)
    return picture


def psnr(found: Array, expected: Array) -> float:
    """Peak signal-to-noise ratio of 8-bit pictures, in decibels."""
    error = np.mean((found.astype(np.float64) - expected.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / max(float(error), 1e-10)))


@pytest.mark.parametrize(("sampler", "schedule"), SCHEDULERS)
def test_picture_equals_diffusers(
    opened: Opened, sampler: str, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPTIONS, sampler=sampler, schedule=schedule)
    expected = diffusers_picture(opened, options, monkeypatch)
    found = np.asarray(opened.model.generate(options).images[0])
    assert found.shape == expected.shape == (64, 64, 3)
    assert expected.std() > 20
    assert psnr(found, expected) >= 40.0


def test_the_prompt_matters_more_than_that(opened: Opened) -> None:
    options = replace(OPTIONS, sampler="euler")
    first, second = (
        np.asarray(opened.model.generate(replace(options, prompt=text)).images[0])
        for text in (options.prompt, "a cat")
    )
    assert psnr(first, second) < 35.0


@pytest.mark.parametrize("name", ["discrete", "karras"])
def test_sigmas_are_those_of_diffusers(name: str) -> None:
    scheduler = SCHEDULERS["euler", name]
    scheduler.set_timesteps(20)
    np.testing.assert_allclose(sigmas(name, 20), np.asarray(scheduler.sigmas), rtol=1e-4)


def picture(model: Pipeline, **options: Any) -> bytes:
    made = model.generate(replace(OPTIONS, steps=STEPS, **options))
    return b"".join(image.tobytes() for image in made.images)


def test_a_seed_determines_the_picture(small: Pipeline, small_artifact: Path) -> None:
    assert picture(small) == picture(small)
    with sdcomp.load(small_artifact, threads=1) as other:
        assert picture(other) == picture(small)
    assert picture(small, seed=8) != picture(small)


def test_pictures_of_a_batch_have_the_next_seeds(small: Pipeline) -> None:
    last = (1 << 64) - 1
    for seed, seeds in ((7, (7, 8, 9)), (last, (last, 0))):
        alone = [picture(small, seed=number) for number in seeds]
        made = small.generate(replace(OPTIONS, steps=STEPS, seed=seed, batch=len(seeds)))
        assert [image.tobytes() for image in made.images] == alone
        assert all(f"Seed: {n}," in text for n, text in zip(seeds, made.parameters, strict=True))


def test_seeds_drawn_at_random_are_told(small: Pipeline) -> None:
    made = small.generate(replace(OPTIONS, steps=1, seed=-1))
    seed = int(made.parameters[0].split("Seed: ")[1].split(",")[0])
    assert small.generate(replace(OPTIONS, steps=1, seed=seed)).images[0] == made.images[0]
    assert small.generate(replace(OPTIONS, steps=1, seed=-1)).parameters != made.parameters


def test_guidance(small: Pipeline) -> None:
    """At scale 1 the negative prompt has no effect; elsewhere it has, and so has the scale."""
    assert picture(small, cfg_scale=1.0) == picture(small, cfg_scale=1.0, negative="ugly")
    assert picture(small) != picture(small, negative="ugly")
    assert picture(small) != picture(small, cfg_scale=9.0)
    guided = np.frombuffer(picture(small, cfg_scale=1.0 + 1e-6), np.uint8)
    assert psnr(guided, np.frombuffer(picture(small, cfg_scale=1.0), np.uint8)) >= 40.0


def test_progress_and_stages(small: Pipeline) -> None:
    calls: list[tuple[str, int, int]] = []
    made = small.generate(
        replace(OPTIONS, steps=3, batch=2),
        lambda stage, done, total, seconds: calls.append((stage, done, total)),
    )
    assert calls == [
        *(("text encoder", done, 2) for done in (1, 2)),
        *(("sampling", done, 3) for done in (1, 2, 3)),
        *(("decoder", done, 2) for done in (1, 2)),
    ]
    assert list(made.stages) == ["text encoder", "sampling", "decoder"]
    assert all(seconds > 0 for seconds in made.stages.values())
    assert made.warnings == []


def test_an_exception_of_progress_ends_the_generation(small: Pipeline) -> None:
    def stop(stage: str, done: int, total: int, seconds: float) -> None:
        if (stage, done) == ("sampling", 2):
            raise RuntimeError("enough")

    expected = picture(small)
    with pytest.raises(RuntimeError, match="enough"):
        small.generate(replace(OPTIONS, steps=STEPS), stop)
    assert picture(small) == expected


def test_a_long_prompt_is_cut_and_told(small: Pipeline) -> None:
    made = small.generate(replace(OPTIONS, prompt="cat " * 80, steps=1))
    assert len(made.warnings) == 1
    assert "last 5 tokens" in made.warnings[0]


def test_file_tells_how_it_was_made(opened: Opened, tmp_path: Path) -> None:
    made = opened.model.generate(replace(OPTIONS, steps=2, batch=2, schedule="karras"))
    save_png(made.images[1], tmp_path / "out.png", made.parameters[1])
    with Image.open(tmp_path / "out.png") as file:
        text, pixels = file.text["parameters"], np.asarray(file)
    np.testing.assert_array_equal(pixels, np.asarray(made.images[1]))
    prompt, negative, settings = text.split("\n")
    assert (prompt, negative) == (OPTIONS.prompt, "Negative prompt: blurry")
    assert dict(item.split(": ", 1) for item in settings.split(", ")) == {
        "Steps": "2",
        "Sampler": "Euler a",
        "Schedule type": "Karras",
        "CFG scale": "20",
        "Seed": "8",
        "Size": "64x64",
        "Model": opened.built.checkpoint.stem,
        "Version": f"sdcomp {sdcomp.__version__}",
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": "plms"}, "sampler 'plms'; the samplers are euler, euler_a"),
        ({"schedule": "sgm"}, "schedule 'sgm'; the schedules are discrete, karras"),
        ({"steps": 0}, "steps 0: expected 1 or more"),
        ({"batch": 0}, "batch 0: expected 1 or more"),
        ({"cfg_scale": float("nan")}, "cfg scale nan: expected a finite number"),
        ({"seed": 1 << 64}, "seed 18446744073709551616: expected less than 2\\^64"),
        ({"size": (64, 64)}, "size 64x64: this artifact was built for 32x32; build it with --size 64x64 too"),
    ],
)
def test_options_that_cannot_be_honoured(small: Pipeline, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        small.generate(replace(OPTIONS, **options), lambda *_: pytest.fail("work was done"))


def test_txt2img_gives_pictures(small: Pipeline) -> None:
    first, second = small.txt2img(OPTIONS.prompt, "blurry", steps=STEPS, cfg_scale=20.0, seed=7, batch=2)
    assert first.size == second.size == (32, 32)
    assert first.mode == "RGB"
    assert first.tobytes() == picture(small)
