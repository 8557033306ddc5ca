"""Threads change no bit; models are shared, closed, reopened and interrupted without harm."""

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sdcomp
from sdcomp.errors import ArtifactError, Cancelled, ExecutionError, UsageError
from sdcomp.ir.types import DType
from sdcomp.runtime.context import Array
from sdcomp.runtime.payload import read_trailer
from sdcomp.runtime.pipeline import GenerateOptions, Pipeline
from sdcomp.runtime.programs import ProgramInfo

SIZE = (32, 32)
OPTIONS = GenerateOptions("a cat", steps=3, seed=1)
INTERRUPT_SECONDS = 1.0
SLACK = 1 << 16
"""Bytes of pages that two neighbours in the payload share."""

LONG_RUN = """
import sys, time
import sdcomp

def say(stage, done, total, seconds):
    print(stage, flush=True)

with sdcomp.load(sys.argv[1], threads=2) as model:
    try:
        model.generate(sdcomp.GenerateOptions("a cat", steps=100_000), say)
    except KeyboardInterrupt:
        print("interrupted at", time.monotonic(), flush=True)
        raise
"""


def random_inputs(program: ProgramInfo) -> dict[str, Array]:
    generator = np.random.default_rng(len(program.name))
    return {
        tensor.name: generator.integers(0, 49408, tensor.shape, dtype=np.int32)
        if tensor.dtype is DType.I32
        else generator.standard_normal(tensor.shape, dtype=np.float32)
        for tensor in program.inputs
    }


def run_everything(model: Pipeline) -> dict[str, bytes]:
    """The bits of every output of every program, run in the artifact's order in one context."""
    found: dict[str, bytes] = {}
    with model.library.context() as context:
        for name, program in model.library.programs.items():
            outputs = context.run(name, random_inputs(program))
            found |= {f"{name}.{key}": value.tobytes() for key, value in outputs.items()}
    return found


def run_networks(model: Pipeline, seed: int = 0) -> dict[str, bytes]:
    """The bits of every network's output through the public functions."""
    generator = np.random.default_rng(seed)
    latents = generator.standard_normal((1, 4, SIZE[1], SIZE[0]), dtype=np.float32)
    text = model.encode_text(f"picture number {seed}")
    arrays: Mapping[str, Array] = {
        "text": text,
        "noise": model.predict_noise(latents, 10.5 * seed, text),
        "image": model.decode(latents),
    }
    return {name: array.tobytes() for name, array in arrays.items()}


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Runs work(0) to work(count - 1) at once; the first failure fails the test."""
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures, failures
    assert not any(thread.is_alive() for thread in threads)


def test_any_number_of_threads_gives_the_same_bits(small_artifact: Path) -> None:
    found: dict[int, dict[str, bytes]] = {}
    for threads in (1, 2, 3, 8):
        with sdcomp.load(small_artifact, threads=threads) as model:
            assert model.library.threads == threads
            found[threads] = run_everything(model)
    assert len(found[1]) >= 4
    for threads in (2, 3, 8):
        assert found[threads] == found[1]


def test_the_same_program_many_times_gives_the_same_bits(small_artifact: Path) -> None:
    with sdcomp.load(small_artifact, threads=4) as model:
        first = run_everything(model)
        for _ in range(5):
            assert run_everything(model) == first


def test_one_model_in_several_threads(small_artifact: Path) -> None:
    with sdcomp.load(small_artifact, threads=2) as model:
        expected = [run_networks(model, seed) for seed in range(3)]

        def work(number: int) -> None:
            for turn in range(3):
                seed = (number + turn) % len(expected)
                assert run_networks(model, seed) == expected[seed]
                model.release(("text", "unet", "vae_decoder")[turn])

        in_threads(4, work)


def test_pictures_in_several_threads(small_artifact: Path) -> None:
    with sdcomp.load(small_artifact, threads=2) as model:
        expected = [model.generate(replace(OPTIONS, seed=seed)).images[0] for seed in range(3)]

        def work(number: int) -> None:
            assert model.generate(replace(OPTIONS, seed=number)).images[0] == expected[number]

        in_threads(3, work)


def test_two_models_at_once(small_artifact: Path) -> None:
    with (
        sdcomp.load(small_artifact, threads=1) as first,
        sdcomp.load(small_artifact, threads=2) as second,
    ):
        expected = run_networks(first)
        in_threads(2, lambda number: check_networks((first, second)[number], expected))
        first.close()
        check_networks(second, expected)


def check_networks(model: Pipeline, expected: Mapping[str, bytes]) -> None:
    assert run_networks(model) == expected


def test_closing_ends_what_runs(small_artifact: Path) -> None:
    model = sdcomp.load(small_artifact, threads=2)
    started, caught = threading.Event(), []

    def generate() -> None:
        try:
            model.generate(replace(OPTIONS, steps=100_000), lambda *_: started.set())
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=generate)
    thread.start()
    assert started.wait(60)
    begin = time.monotonic()
    model.close()
    thread.join(60)
    assert time.monotonic() - begin < 5
    assert [type(error) in (Cancelled, ExecutionError) for error in caught] == [True]


def test_a_closed_model_says_so_and_can_be_opened_again(small_artifact: Path) -> None:
    with sdcomp.load(small_artifact, threads=1) as model:
        expected = run_networks(model)
    model.close()
    for use in (
        lambda: model.encode_text("x"),
        lambda: model.generate(OPTIONS),
        lambda: model.release("unet"),
    ):
        with pytest.raises(ExecutionError, match=f"{small_artifact}: .*closed"):
            use()
    for _ in range(3):
        with sdcomp.load(small_artifact, threads=1) as model:
            check_networks(model, expected)


def test_released_memory_is_given_back_and_comes_back(small_artifact: Path) -> None:
    with sdcomp.load(small_artifact, threads=1) as model:
        assets = sum(asset["bytes"] for asset in model.manifest["assets"].values())
        expected = run_networks(model)
        before = resident_payload_bytes(small_artifact)
        for network in ("text", "unet", "vae_decoder"):
            model.release(network)
        after = resident_payload_bytes(small_artifact)
        assert after <= assets + SLACK < before
        check_networks(model, expected)
        assert resident_payload_bytes(small_artifact) == before
        model.generate(OPTIONS)
        assert resident_payload_bytes(small_artifact) <= assets + SLACK


def resident_payload_bytes(path: Path) -> int:
    """How much of an artifact's payload is in this process's memory, by the kernel's count."""
    smaps, trailer = Path("/proc/self/smaps"), read_trailer(path)
    if not smaps.exists():
        pytest.skip("this system does not tell what is resident")
    assert trailer is not None
    total, counted = 0, False
    for line in smaps.read_text().splitlines():
        if mapping := re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ ([0-9a-f]+) ", line):
            counted = line.endswith(str(path)) and int(mapping[1], 16) >= trailer.payload_offset
        elif counted and line.startswith("Rss:"):
            total += 1024 * int(line.split()[1])
    return total


def test_ctrl_c_ends_a_generation_within_a_second(small_artifact: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LONG_RUN, str(small_artifact)]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(sdcomp.__file__).parents[1])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs inherit SIG_IGN
    )
    assert process.stdout is not None
    while process.stdout.readline() != "sampling\n":
        assert process.poll() is None
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    words, _, caught = out.splitlines()[-1].rpartition(" ")
    assert words == "interrupted at"
    assert 0 <= float(caught) - sent < INTERRUPT_SECONDS
    assert process.returncode == -signal.SIGINT
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert list(tmp_path.iterdir()) == []


def test_wrong_inputs_are_explained(small_artifact: Path) -> None:
    latents, text = np.zeros((1, 4, 32, 32), np.float32), np.zeros((1, 77, 64), np.float32)
    with sdcomp.load(small_artifact, threads=1) as model:
        cases: list[tuple[Callable[[], object], type[Exception], str]] = [
            (lambda: model.predict_noise(latents[0], 1, text), ExecutionError, "latents: expected 4 axes"),
            (lambda: model.predict_noise(latents, 1, text[0]), ExecutionError, "context: expected 3 axes"),
            (lambda: model.predict_noise(latents[:0], 1, text), ExecutionError, "at least one row"),
            (lambda: model.predict_noise(latents[:, :3], 1, text), ExecutionError, r"\[1, 4, 32, 32\]"),
            (lambda: model.predict_noise(latents, 1, text[:, :76]), ExecutionError, r"\[1, 77, 64\]"),
            (lambda: model.predict_noise(latents, 1, text.repeat(2, 0)), ExecutionError, "1 latents need"),
            (lambda: model.predict_noise(latents, [1, 2], text), ExecutionError, "timestep: expected 1 or"),
            (
                lambda: model.predict_noise(latents, np.zeros((1, 1), np.float32), text),
                ExecutionError,
                "timestep: exp",
            ),
            (lambda: model.predict_noise(latents[:, :, :8], 1, text), UsageError, "size 32x8: this artifact"),
            (
                lambda: model.decode(latents[:, :, :, :8]),
                UsageError,
                "size 8x32: this artifact was built for",
            ),
            (lambda: model.decode(latents[0]), ExecutionError, "latents: expected 4 axes"),
            (lambda: model.decode(latents[:, :1]), ExecutionError, r"\[1, 4, 32, 32\]"),
            (lambda: model.encode(latents[:, :3]), ExecutionError, "has no VAE encoder"),
            (lambda: model.encode_text([]), ExecutionError, "prompts: expected at least one"),
        ]
        for call, kind, words in cases:
            with pytest.raises(kind, match=words) as caught:
                call()
            assert "\n" not in str(caught.value)


def test_an_artifact_that_is_no_model(artifact: Path) -> None:
    with pytest.raises(ArtifactError, match=f"{artifact}: its manifest has no 'sizes'; build it again"):
        sdcomp.load(artifact)
