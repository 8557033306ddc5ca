"""Networks of built artifacts against diffusers and transformers with the same weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import sdcomp
from sdcomp.errors import ExecutionError
from sdcomp.runtime.pipeline import Pipeline
from tests.artifacts import Builder, Built
from tests.runtime.oracle import Array, Oracle, make_oracle, relative_error
from tests.runtime.subjects import STRENGTH, SUBJECTS, TWO_SIZES, VARIANTS, Prepared, prepare

PROMPTS = ["", "a lighthouse above the sea at dusk, 35mm"]
TIMESTEPS = (999.0, 431.5, 17.25, 0.0)


@dataclass(frozen=True)
class Pair:
    """An opened artifact, the torch models with its weights, and the error that it may have."""

    model: Pipeline
    oracle: Oracle
    bound: float


@pytest.fixture(
    scope="module",
    params=[(name, variant) for name in SUBJECTS for variant in VARIANTS],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def prepared(request: pytest.FixtureRequest, builder: Builder) -> Iterator[Prepared]:
    """Every subject as every variant; the files are gone after the tests of it."""
    prepared = prepare(builder, *request.param)
    yield prepared
    prepared.remove()


@pytest.fixture(scope="module")
def pair(prepared: Prepared) -> Iterator[Pair]:
    oracle = make_oracle(prepared.built.config, prepared.built.checkpoint)
    if prepared.adapter is not None:
        changed = oracle.merge_lokr(prepared.adapter, STRENGTH)
        assert changed == prepared.built.manifest["adapted_weights"] > 20
    with sdcomp.load(prepared.built.path, threads=2) as model:
        yield Pair(model, oracle, prepared.variant.bound)


def random_array(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def latent_shape(model: Pipeline, size: tuple[int, int], batch: int = 1) -> tuple[int, int, int, int]:
    scale = model.manifest["downscale"]
    return batch, 4, size[1] // scale, size[0] // scale


def test_text_encoder(pair: Pair) -> None:
    ids = np.stack([pair.model.tokenize(prompt).ids for prompt in PROMPTS])
    found = pair.model.encode_text(PROMPTS)
    assert relative_error(found, pair.oracle.hidden_states(ids)) <= pair.bound
    np.testing.assert_array_equal(pair.model.encode_text(PROMPTS[1]), found[1:])


def test_unet(pair: Pair) -> None:
    for size in pair.model.sizes:
        for seed, timestep in enumerate(TIMESTEPS):
            latents = random_array(*latent_shape(pair.model, size), seed=seed)
            context = random_array(1, 77, 64, seed=99 - seed)
            found = pair.model.predict_noise(latents, timestep, context)
            assert relative_error(found, pair.oracle.noise(latents, timestep, context)) <= pair.bound


def test_unet_of_a_guidance_pair(pair: Pair) -> None:
    """One latent, two prompts: each row alone must be right, and right for its own prompt."""
    text = pair.model.encode_text(PROMPTS)
    for size in pair.model.sizes:
        latents = random_array(*latent_shape(pair.model, size))
        with pair.model.context() as context:
            pair.model.set_prompt(context, size, text)
            pair.model.set_timestep(context, size, 612.75, 2)
            found = pair.model.noise(context, size, latents, 2)
        expected = [pair.oracle.noise(latents, 612.75, text[row : row + 1]) for row in range(2)]
        for row in range(2):
            assert relative_error(found[row : row + 1], expected[row]) <= pair.bound
        assert relative_error(expected[0], expected[1]) > 2 * pair.bound


def test_decoder(pair: Pair) -> None:
    for size in pair.model.sizes:
        latents = random_array(*latent_shape(pair.model, size))
        assert relative_error(pair.model.decode(latents), pair.oracle.decode(latents)) <= pair.bound


def test_encoder(pair: Pair) -> None:
    width, height = pair.model.sizes[0]
    images = np.tanh(random_array(2, 3, height, width))
    if not pair.model.manifest["has_encoder"]:
        with pytest.raises(ExecutionError, match="has no VAE encoder"):
            pair.model.encode(images)
        return
    assert relative_error(pair.model.encode(images), pair.oracle.encode(images)) <= pair.bound


def test_rows_of_a_batch_are_independent(small_artifact: Path) -> None:
    with sdcomp.load(small_artifact, threads=2) as model:
        latents, context = random_array(*latent_shape(model, (32, 32), 3)), random_array(3, 77, 64)
        together = model.predict_noise(latents, TIMESTEPS[:3], context)
        decoded = model.decode(latents)
        for row in range(3):
            one = slice(row, row + 1)
            alone = model.predict_noise(latents[one], TIMESTEPS[row], context[one])
            np.testing.assert_array_equal(together[one], alone)
            np.testing.assert_array_equal(decoded[one], model.decode(latents[one]))


def test_sizes_share_their_weights(builder: Builder, small_built: Built) -> None:
    """The subject with two sizes has the networks of the small artifact, which has one. Assets lie behind the
    weights; one of them grows with the number of programs.
    """

    def stored_bytes(built: Built) -> int:
        return min(int(asset["offset"]) for asset in built.manifest["assets"].values())

    stored = []
    for variant in VARIANTS[:3]:
        prepared = prepare(builder, TWO_SIZES, variant)
        assert prepared.built.config == small_built.config
        stored.append(stored_bytes(prepared.built))
        prepared.remove()
    as_f16, as_f32, rounded = stored
    assert as_f16 == stored_bytes(small_built)
    assert rounded < as_f32
