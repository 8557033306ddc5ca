"""Builds that fail or are interrupted: one line that names the culprit, and nothing half-written."""

import os
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sdcomp
from sdcomp.errors import AdapterError, FamilyError, LinkError, LoadError, SdcompError, UsageError
from sdcomp.runtime.payload import read_trailer
from tests.artifacts import TINY_SIZE, Built

pytestmark = pytest.mark.usefixtures("compile_once")

Progress = Callable[[str, int, int], None]

OLD = b"what was there before"
STAGES = ("plan", "weights", "compile", "link")


def build(checkpoint: Path, output: Path, progress: Progress | None = None, **options: Any) -> None:
    sdcomp.build(checkpoint, output, sdcomp.BuildOptions(**{"sizes": [TINY_SIZE], **options}), progress)


@contextmanager
def refused(folder: Path, kind: type[SdcompError], *words: str) -> Iterator[None]:
    """An error of this kind, in one line with these words; the old artifact stays, and nothing new comes."""
    artifact = folder / "model.so"
    artifact.write_bytes(OLD)
    before = sorted(os.listdir(folder))
    with pytest.raises(kind) as caught:
        yield
    text = str(caught.value)
    assert "\n" not in text
    assert [word for word in words if word not in text] == [], text
    assert sorted(os.listdir(folder)) == before
    assert artifact.read_bytes() == OLD


# ---- Inputs


UNET_FIRST = "model.diffusion_model.input_blocks.0.0.weight"
VAE_LAST = "first_stage_model.decoder.conv_out.bias"


@pytest.mark.parametrize("name", [UNET_FIRST, VAE_LAST])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_numbers(small_built: Built, tmp_path: Path, name: str, value: float) -> None:
    """Found before anything is compiled."""
    stages = []
    tensors = load_file(small_built.checkpoint)
    tensors[name].reshape(-1)[-1] = value
    path = tmp_path / "broken.safetensors"
    save_file(tensors, path)
    with refused(tmp_path, LoadError, str(path), name, "NaN or infinity"):
        build(path, tmp_path / "model.so", lambda stage, done, total: stages.append(stage))
    assert set(stages) == {"plan", "weights"}


def without(tensors: dict[str, Any]) -> None:
    del tensors[VAE_LAST]


def widen(tensors: dict[str, Any]) -> None:
    tensors[UNET_FIRST] = np.zeros((32, 5, 3, 3), np.float16)


@pytest.mark.parametrize("change", [without, widen])
def test_tensors_that_do_not_fit(small_built: Built, tmp_path: Path, change: Any) -> None:
    tensors = load_file(small_built.checkpoint)
    change(tensors)
    path = tmp_path / "broken.safetensors"
    save_file(tensors, path)
    with refused(tmp_path, FamilyError, str(path)):
        build(path, tmp_path / "model.so")


def test_truncated_checkpoint(small_built: Built, tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(small_built.checkpoint.read_bytes()[:-100])
    with refused(tmp_path, LoadError, str(path), "truncated"):
        build(path, tmp_path / "model.so")


def test_checkpoint_that_shrinks_during_the_build(small_built: Built, tmp_path: Path) -> None:
    path = tmp_path / "shrinking.safetensors"
    path.write_bytes(small_built.checkpoint.read_bytes())

    def shrink(stage: str, done: int, total: int) -> None:
        if stage == "weights" and done:
            os.truncate(path, 1 << 12)

    with refused(tmp_path, LoadError, str(path)):
        build(path, tmp_path / "model.so", shrink)


def lokr(width: int, value: float = 0.5) -> dict[str, Any]:
    module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    first, second = np.full((4, 4), 0.5, np.float32), np.full((8, width // 4), value, np.float32)
    return {f"{module}.lokr_w1": first, f"{module}.lokr_w2": second}


ADAPTERS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "another family": (lokr(2048), ("attn2_to_k", "SDXL")),
    "another width": (lokr(128), ("attn2_to_k", "[32, 64]")),
    "NaN": (lokr(64, np.nan), ("attn2_to_k.lokr_w2", "NaN or infinity")),
    "unmatched": ({"lora_unet_nowhere.lokr_w1": np.ones((2, 2), np.float32)}, ("lora_unet_nowhere",)),
    "no adapter": ({"weight": np.ones((2, 2), np.float32)}, ("is it a checkpoint?",)),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_adapters_that_do_not_fit(small_built: Built, tmp_path: Path, case: str) -> None:
    tensors, words = ADAPTERS[case]
    path = tmp_path / "style.safetensors"
    save_file(tensors, path)
    with refused(tmp_path, AdapterError, str(path), *words):
        build(small_built.checkpoint, tmp_path / "model.so", adapters=[sdcomp.AdapterFile(path)])


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no size": ({"sizes": []}, "at least one size"),
    "size 0": ({"sizes": [(0, 32)]}, "0x32"),
    "negative size": ({"sizes": [(32, -32)]}, "32x-32"),
    "weights": ({"weights": "q4"}, "--weights q4: expected one of auto, f32, f16"),
    "target": ({"target": "z80"}, "--target z80: unknown; known are native, x86-64-v3"),
    "threads": ({"threads": -1}, "--threads -1: expected 0"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_cannot_be_honoured(small_built: Built, tmp_path: Path, case: str) -> None:
    options, words = OPTIONS[case]
    with refused(tmp_path, UsageError, words):
        build(small_built.checkpoint, tmp_path / "model.so", **options)


# ---- The output


def test_folders_that_are_no_place_for_it(small_built: Built, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refused(tmp_path, UsageError, f"{tmp_path / 'file' / 'model.so'}: the folder", "does not exist"):
        build(small_built.checkpoint, tmp_path / "file" / "model.so")
    with refused(tmp_path, UsageError, f"{tmp_path}: is a folder"):
        build(small_built.checkpoint, tmp_path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc that nobody can write to")
def test_a_folder_that_nobody_can_write_to(small_built: Built) -> None:
    with pytest.raises((UsageError, LinkError), match=r"^/proc/.*model\.so.*: ") as caught:
        build(small_built.checkpoint, Path("/proc/model.so"))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_write_protected(small_built: Built, tmp_path: Path) -> None:
    with refused(tmp_path, UsageError, f"{tmp_path / 'model.so'}: ", "not writable"):
        tmp_path.chmod(0o500)
        build(small_built.checkpoint, tmp_path / "model.so")
    tmp_path.chmod(0o700)


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Writing beyond fails, as on a full disk, in this process and its children."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("stage", ["weights", "appending"])
def test_no_room(small_built: Built, tmp_path: Path, stage: str, split: bool) -> None:
    trailer = read_trailer(small_built.path)
    assert trailer is not None
    payload = trailer.payload_bytes
    limit = payload // 2 if stage == "weights" else payload + (1 << 14)
    if split and stage == "appending":
        pytest.skip("split weights are not appended")
    named = f"{tmp_path / 'model.so'}: cannot write"
    with files_limited_to(limit), refused(tmp_path, LinkError, named, "too large"):
        build(small_built.checkpoint, tmp_path / "model.so", split_weights=split)


def test_full_disk(small_built: Built, tmp_path: Path) -> None:
    """A file system that is smaller than the artifact."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], check=False, capture_output=True
    )
    if mount.returncode:
        pytest.skip("a file system can only be mounted by root")
    try:
        with refused(folder, LinkError, f"{folder / 'model.so'}: cannot write", "No space left"):
            build(small_built.checkpoint, folder / "model.so")
    finally:
        subprocess.run(["umount", folder], check=True)


# ---- Interruptions


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_interrupted_at_a_stage(small_built: Built, tmp_path: Path, stage: str, split: bool) -> None:
    def interrupt(reached: str, done: int, total: int) -> None:
        if reached == stage and (done or total == 1):
            raise KeyboardInterrupt

    artifact = tmp_path / "model.so"
    artifact.write_bytes(OLD)
    with pytest.raises(KeyboardInterrupt):
        build(small_built.checkpoint, artifact, interrupt, split_weights=split)
    assert os.listdir(tmp_path) == ["model.so"]
    assert artifact.read_bytes() == OLD


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals go to the main thread"
)
@pytest.mark.parametrize("seconds", [0.02, 0.1])
def test_ctrl_c_while_the_linker_runs(small_built: Built, tmp_path: Path, seconds: float) -> None:
    timers = []

    def arm(stage: str, done: int, total: int) -> None:
        if stage == "link":
            timers.append(threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)))
            timers[0].start()

    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the signal may come after the build
        build(small_built.checkpoint, tmp_path / "model.so", arm)
        timers[0].join()
    assert os.listdir(tmp_path) in ([], ["model.so"])
