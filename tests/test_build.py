"""`sdcomp.build`: which files it makes, under any name, and what an artifact remembers."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sdcomp
from sdcomp.compiler import AdapterFile
from sdcomp.errors import AdapterError, ArtifactError
from sdcomp.frontend.synthetic_lokr import Form, write_random_lokr
from sdcomp.passes.pipeline import PipelineOptions, pipeline
from tests.artifacts import TINY, TINY_SIZE, Built
from tests.checkpoints import write_checkpoint

pytestmark = pytest.mark.usefixtures("compile_once")

SIZES = [TINY_SIZE]


def build(built: Built, output: Path, **options: Any) -> dict[str, Any]:
    return sdcomp.build(built.checkpoint, output, sdcomp.BuildOptions(sizes=SIZES, **options))


def decoded(path: Path) -> np.ndarray:
    """A picture that depends on the artifact's weights."""
    latents = np.random.default_rng(0).standard_normal((1, 4, *TINY_SIZE), dtype=np.float32)
    with sdcomp.load(path, threads=1) as model:
        return model.decode(latents)


def encoded(path: Path) -> np.ndarray:
    """Hidden states of a prompt."""
    with sdcomp.load(path, threads=1) as model:
        return model.encode_text(["a lighthouse"])


def test_nothing_but_the_artifact_is_left(small_built: Built, tmp_path: Path) -> None:
    build(small_built, tmp_path / "model.so")
    assert os.listdir(tmp_path) == ["model.so"]


NAMES = (
    "a b.so",
    "ünïcode 猫.so",
    "100%s.so",
    'it\'s "quoted".so',
    "one,two.so",
    "-o.so",
    "model",
    ".hidden",
)


@pytest.mark.parametrize("name", NAMES)
def test_any_name_will_do(small_built: Built, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    build(small_built, folder / name)
    assert os.listdir(folder) == [name]
    np.testing.assert_array_equal(decoded(folder / name), decoded(small_built.path))


def test_relative_names_are_of_the_current_folder(
    small_built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build(small_built, Path("model.so"))
    np.testing.assert_array_equal(decoded(Path("model.so")), decoded(small_built.path))


@pytest.mark.parametrize("split", [False, True])
def test_an_open_artifact_survives_its_replacement(small_built: Built, tmp_path: Path, split: bool) -> None:
    """Files are renamed over old ones, so a model that is open goes on with the old one's weights."""
    path, other = tmp_path / "model.so", tmp_path / "other.safetensors"
    write_checkpoint(other, unet=TINY.unet, vae=TINY.vae, text=TINY.text, seed=9)
    build(small_built, path, split_weights=split)
    latents = np.random.default_rng(0).standard_normal((1, 4, *TINY_SIZE), dtype=np.float32)
    with sdcomp.load(path, threads=1) as model:
        before = model.decode(latents)
        sdcomp.build(other, path, sdcomp.BuildOptions(sizes=SIZES, split_weights=split))
        model.release("vae_decoder")
        np.testing.assert_array_equal(model.decode(latents), before)
    assert np.abs(decoded(path) - before).max() > 0.1


# ---- Split weights


@pytest.fixture(scope="module")
def split(small_built: Built, tmp_path_factory: pytest.TempPathFactory, compile_once: None) -> Path:
    path = tmp_path_factory.mktemp("split") / "model.so"
    build(small_built, path, split_weights=True)
    return path


def test_split_weights_are_two_files(split: Path, small_built: Built) -> None:
    assert sorted(os.listdir(split.parent)) == ["model.so", "model.so.weights"]
    weights = split.with_name("model.so.weights").stat().st_size
    assert 0 <= weights - int(small_built.manifest["weights_bytes"]) < 1 << 12
    assert split.stat().st_size + weights <= small_built.path.stat().st_size + (1 << 16)
    np.testing.assert_array_equal(decoded(split), decoded(small_built.path))


def test_split_files_move_together(split: Path, small_built: Built, tmp_path: Path) -> None:
    for name in os.listdir(split.parent):
        shutil.copy(split.parent / name, tmp_path / name.replace("model", "moved"))
    np.testing.assert_array_equal(decoded(tmp_path / "moved.so"), decoded(small_built.path))


def truncate(weights: Path) -> None:
    os.truncate(weights, weights.stat().st_size // 2)


def flip_a_byte(weights: Path) -> None:
    with open(weights, "r+b") as file:
        file.seek(1 << 20)
        byte = file.read(1)[0]
        file.seek(1 << 20)
        file.write(bytes([byte ^ 1]))


SPLIT_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "left behind": (Path.unlink, r"model\.so: carries no weights payload .* none in .*model\.so\.weights"),
    "truncated": (truncate, r"model\.so"),
    "empty": (lambda weights: weights.write_bytes(b""), r"model\.so: carries no weights payload"),
    "damaged": (flip_a_byte, r"model\.so.* are damaged"),
}


@pytest.mark.parametrize("case", SPLIT_DAMAGE)
def test_split_weights_that_are_not_right(split: Path, tmp_path: Path, case: str) -> None:
    damage, words = SPLIT_DAMAGE[case]
    for name in os.listdir(split.parent):
        shutil.copy(split.parent / name, tmp_path / name)
    damage(tmp_path / "model.so.weights")
    with pytest.raises(ArtifactError, match=words) as caught:
        sdcomp.load(tmp_path / "model.so")
    assert "\n" not in str(caught.value)


def test_split_weights_of_another_build(split: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m.safetensors", unet=TINY.unet, vae=TINY.vae, text=TINY.text, seed=5)
    sdcomp.build(
        tmp_path / "m.safetensors",
        tmp_path / "other.so",
        sdcomp.BuildOptions(sizes=SIZES, split_weights=True),
    )
    shutil.copy(split, tmp_path / "other.so")
    with pytest.raises(ArtifactError, match=r"other\.so\.weights: .*of another build"):
        sdcomp.load(tmp_path / "other.so")


# ---- What an artifact remembers


def test_manifest(small_built: Built, tmp_path: Path) -> None:
    returned = build(small_built, tmp_path / "model.so", threads=3)
    with sdcomp.load(tmp_path / "model.so") as model:
        assert model.manifest == returned
        assert model.library.threads == 3
        assert model.sizes == SIZES
        programs = [program["name"] for program in model.manifest["programs"]]
        assert programs == list(model.library.programs)
        for program in model.manifest["programs"]:
            info = model.library.programs[program["name"]]
            assert program["arena_bytes"] == info.arena_bytes
            assert program["weights_bytes"] == info.weights_bytes
            assert sum(program["kernels"].values()) == len(info.kernels)
        assert model.manifest["checkpoint"]["file"] == small_built.checkpoint.name
        assert model.manifest["adapters"] == []
    with sdcomp.load(tmp_path / "model.so", threads=1) as model:
        assert model.library.threads == 1


def test_float16_stays_as_it_is(small_built: Built, tmp_path: Path) -> None:
    manifest = build(small_built, tmp_path / "model.so", weights="f16")
    assert manifest["weights_bytes"] == small_built.manifest["weights_bytes"]
    np.testing.assert_array_equal(decoded(tmp_path / "model.so"), decoded(small_built.path))


@pytest.mark.parametrize("weights", ["auto", "f32"])
def test_folded_adapters_change_nothing_but_values(small_built: Built, tmp_path: Path, weights: str) -> None:
    """The same kernels, multiplies and memory of every program as without: no cost at run time."""
    plain = build(small_built, tmp_path / "model.so", weights=weights)
    before = encoded(tmp_path / "model.so")
    whole, part = tmp_path / "lokr.safetensors", tmp_path / "queries.safetensors"
    write_random_lokr(whole, small_built.config, forms=tuple(Form))
    save_file({name: value for name, value in load_file(whole).items() if "_q" in name}, part)
    for path in (whole, part):
        adapters = [sdcomp.AdapterFile(path, 0.5)]
        adapted = build(small_built, tmp_path / "model.so", weights=weights, adapters=adapters)
        assert adapted["adapted_weights"] > 1
        assert adapted["programs"] == plain["programs"]
        assert adapted["weights_bytes"] == plain["weights_bytes"]
        assert not np.array_equal(encoded(tmp_path / "model.so"), before)


def test_a_size_given_twice_is_built_once(small_built: Built, tmp_path: Path) -> None:
    options = sdcomp.BuildOptions(sizes=[TINY_SIZE, TINY_SIZE])
    manifest = sdcomp.build(small_built.checkpoint, tmp_path / "model.so", options)
    assert manifest["sizes"] == [list(TINY_SIZE)]
    assert manifest["programs"] == small_built.manifest["programs"]


def test_progress_and_passes_are_told(small_built: Built, tmp_path: Path) -> None:
    stages: list[tuple[str, int, int]] = []
    passes: list[str] = []
    sdcomp.build(
        small_built.checkpoint,
        tmp_path / "model.so",
        sdcomp.BuildOptions(sizes=SIZES),
        lambda *step: stages.append(step),
        lambda name, module: passes.append(name),
    )
    assert list(dict.fromkeys(stage for stage, _, _ in stages)) == ["plan", "weights", "compile", "link"]
    assert all(0 <= done <= total for _, done, total in stages)
    assert passes == [step.name for step in pipeline(PipelineOptions())]


def test_overflow_is_found_before_anything_is_planned(small_built: Built, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter.safetensors"
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    factors = {"lora_up.weight": (32, 4), "lora_down.weight": (4, 32)}
    save_file({f"{name}.{key}": np.full(shape, 1e3, np.float32) for key, shape in factors.items()}, adapter)
    stages: list[str] = []
    with pytest.raises(AdapterError, match="more than f16 can hold"):
        sdcomp.build(
            small_built.checkpoint,
            tmp_path / "model.so",
            sdcomp.BuildOptions(adapters=[AdapterFile(adapter)], sizes=SIZES),
            lambda stage, done, total: stages.append(stage),
        )
    assert "plan" not in stages
