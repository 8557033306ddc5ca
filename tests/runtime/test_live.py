"""Live adapters in built artifacts: at strength s the folded model, at strength 0 the base model's bits."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import sdcomp
from sdcomp.compiler import AdapterFile, BuildOptions, build
from sdcomp.errors import AdapterError, UsageError
from sdcomp.frontend.config import ModelConfig
from sdcomp.runtime.pipeline import GenerateOptions, Pipeline
from tests.artifacts import TINY, TINY_SIZE, Builder
from tests.runtime.lora import write_lora
from tests.runtime.oracle import Array, relative_error, write_lycoris

BOUND = 1e-5
"""Live and folded models differ by roundings of weights and sums, 6e-8 each, through some thirty layers."""

STYLE, LINES = 0.75, -0.5


@dataclass(frozen=True)
class Files:
    """A checkpoint in f32, a LoKr of all its modules, written by LyCORIS, and a LoRA of some."""

    checkpoint: Path
    style: Path
    lines: Path
    config: ModelConfig

    def build(self, name: str, *adapters: AdapterFile) -> Path:
        path = self.checkpoint.with_name(f"{name}.so")
        options = BuildOptions(adapters=adapters, sizes=[TINY_SIZE], weights="f32")
        build(self.checkpoint, path, options)
        return path


@pytest.fixture(scope="module")
def files(builder: Builder) -> Files:
    checkpoint, config = builder.checkpoint("live", TINY, "f32")
    style, lines = builder.folder / "style.safetensors", builder.folder / "lines.safetensors"
    write_lycoris(style, config, builder.folder, factor=8)
    write_lora(lines, config)
    return Files(checkpoint, style, lines, config)


@pytest.fixture(scope="module")
def models(files: Files) -> Iterator[dict[str, Pipeline]]:
    """`live`: both adapters, with default strengths; `mixed`: the LoKr folded, the LoRA live."""
    style, lines = AdapterFile(files.style, STYLE), AdapterFile(files.lines, LINES)
    paths = {
        "base": files.build("base"),
        "style": files.build("folded-style", style),
        "both": files.build("folded-both", style, lines),
        "live": files.build(
            "live", AdapterFile(files.style, STYLE, live=True), AdapterFile(files.lines, 0.25, live=True)
        ),
        "mixed": files.build("mixed", style, AdapterFile(files.lines, LINES, live=True)),
    }
    with ExitStack() as stack:
        yield {name: stack.enter_context(sdcomp.load(path, threads=1)) for name, path in paths.items()}


def outputs(model: Pipeline, **strengths: float | tuple[float, float]) -> tuple[Array, Array]:
    """Of the text encoder and of the UNet."""
    generator = np.random.default_rng(0)
    latents = generator.standard_normal((1, 4, *TINY_SIZE), np.float32)
    context = generator.standard_normal((1, 77, 64), np.float32)
    text = model.encode_text("a cat", strengths)
    return text, model.predict_noise(latents, 500.0, context, strengths)


def errors(found: tuple[Array, Array], expected: tuple[Array, Array]) -> float:
    return max(relative_error(f, e) for f, e in zip(found, expected, strict=True))


def test_strength_zero_is_the_base_model_bit_for_bit(models: dict[str, Pipeline]) -> None:
    found, expected = outputs(models["live"], style=0.0, lines=0.0), outputs(models["base"])
    for f, e in zip(found, expected, strict=True):
        assert f.tobytes() == e.tobytes()


def test_one_live_adapter_is_the_folded_one(models: dict[str, Pipeline]) -> None:
    folded = outputs(models["style"])
    assert errors(outputs(models["live"], style=STYLE, lines=0), folded) <= BOUND
    assert errors(folded, outputs(models["base"])) > 100 * BOUND


def test_several_live_adapters_are_the_folded_ones(models: dict[str, Pipeline]) -> None:
    folded = outputs(models["both"])
    assert errors(outputs(models["live"], style=STYLE, lines=LINES), folded) <= BOUND
    assert errors(outputs(models["live"], style=STYLE, lines=-LINES), folded) > 100 * BOUND


def test_live_beside_folded(models: dict[str, Pipeline]) -> None:
    """And the strength that it was built with is the default."""
    assert errors(outputs(models["mixed"]), outputs(models["both"])) <= BOUND
    assert errors(outputs(models["mixed"], lines=0), outputs(models["style"])) == 0


def test_text_encoder_has_its_own_strength(models: dict[str, Pipeline]) -> None:
    text, noise = outputs(models["live"], style=(STYLE, 0.0), lines=0)
    np.testing.assert_array_equal(text, outputs(models["base"])[0])
    assert relative_error(noise, outputs(models["style"])[1]) <= BOUND


def test_strengths_last_for_one_call(models: dict[str, Pipeline]) -> None:
    model = models["live"]
    before = outputs(model)
    outputs(model, style=3.0)
    assert errors(outputs(model), before) == 0


def test_pictures_tell_their_strengths(models: dict[str, Pipeline]) -> None:
    options = GenerateOptions("a cat", steps=1, adapters={"lines": 0.125})
    generated = models["live"].generate(options)
    assert "style: 0.75, lines: 0.125" in generated.parameters[0]
    zero = models["live"].generate(GenerateOptions("a cat", steps=1, adapters={"style": 0, "lines": 0}))
    base = models["base"].generate(GenerateOptions("a cat", steps=1))
    assert zero.images[0].tobytes() == base.images[0].tobytes() != generated.images[0].tobytes()


@pytest.mark.parametrize(
    ("model", "strengths", "words"),
    [
        ("live", {"stile": 1.0}, "adapter stile: .* it has style, lines"),
        ("base", {"style": 1.0}, "no live adapters; build it with --live FILE"),
        ("live", {"style": float("nan")}, "must be a finite f32 number, found nan"),
        ("live", {"style": 1e39}, "must be a finite f32 number"),
    ],
)
def test_impossible_strengths(
    models: dict[str, Pipeline], model: str, strengths: dict[str, float], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        models[model].generate(GenerateOptions("a cat", adapters=strengths))


def test_names_are_unique(files: Files, tmp_path: Path) -> None:
    other = tmp_path / files.style.name
    other.write_bytes(files.style.read_bytes())
    with pytest.raises(UsageError, match="--live: 2 files are called 'style'; rename one"):
        files.build("none", AdapterFile(files.style, live=True), AdapterFile(other, live=True))


def test_what_has_no_factors_is_refused(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "dora.safetensors"
    write_lora(path, files.config, dora=True)
    with pytest.raises(
        AdapterError, match=r"LoRA with DoRA cannot be applied at run time; .* --lokr, not --live"
    ):
        files.build("none", AdapterFile(path, live=True))
