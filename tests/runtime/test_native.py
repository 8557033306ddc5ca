"""An artifact made by hand, opened and run through ctypes: results, refusals, cancelling, tracing."""

import ctypes
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from sdcomp.errors import ArtifactError, Cancelled, ExecutionError, UsageError
from sdcomp.runtime import abi
from sdcomp.runtime.context import Array, Context, TracedRun, aligned_empty
from sdcomp.runtime.library import Library
from sdcomp.runtime.payload import TRAILER, read_trailer
from sdcomp.runtime.sources import HEADER_DIRECTORY
from tests.runtime.artifacts import (
    add_payload,
    fake_weights,
    link_library,
    write_weights,
    zig,
)

ROWS, COLUMNS = 4, 64


@pytest.fixture
def library(artifact: Path) -> Iterator[Library]:
    with Library.open(artifact, threads=2) as library:
        yield library


@pytest.fixture
def context(library: Library) -> Iterator[Context]:
    with library.context() as context:
        yield context


def apply_inputs(seed: int = 0) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((ROWS, COLUMNS), dtype=np.float32)
    return {"x": x, "steps": generator.integers(0, 9, ROWS, dtype=np.int32)}


def expected_apply(inputs: dict[str, Array], scale: float) -> Array:
    state = (fake_weights()[: ROWS * COLUMNS] * np.float32(scale)).reshape(ROWS, COLUMNS)
    product: Array = inputs["x"] ** 2 + state * inputs["steps"][:, None].astype(np.float32)
    return product


def prepare(context: Context, scale: float) -> None:
    assert context.run("prepare", {"scale": np.array([scale], np.float32)}) == {}


def damaged_copy(artifact: Path, tmp_path: Path, position: int) -> Path:
    path = Path(shutil.copy(artifact, tmp_path / "damaged.so"))
    with open(path, "r+b") as file:
        file.seek(position, os.SEEK_END if position < 0 else os.SEEK_SET)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))
    return path


# ---- Results


def test_header_and_binding_agree() -> None:
    header = (HEADER_DIRECTORY / "sdcomp.h").read_text()
    assert f"#define SDCOMP_ABI_VERSION {abi.ABI_VERSION}u" in header
    assert f"#define SDCOMP_ALIGNMENT {abi.ALIGNMENT}u" in header
    assert f"SDCOMP_CANCELLED = {abi.STATUS_CANCELLED} " in header


def test_manifest_and_programs(library: Library) -> None:
    assert library.manifest == {"name": "fake"}
    assert library.threads == 2
    assert list(library.programs) == ["prepare", "apply", "slow"]
    apply = library.programs["apply"]
    assert [(tensor.name, tensor.dtype.value, tensor.shape) for tensor in apply.inputs] == [
        ("x", "f32", (ROWS, COLUMNS)),
        ("steps", "i32", (ROWS,)),
    ]
    assert apply.kernels == ("square", "combine")
    assert library.programs["prepare"].weights_bytes == 4 * ROWS * COLUMNS


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_programs_run(artifact: Path, threads: int) -> None:
    with Library.open(artifact, threads=threads) as library, library.context() as context:
        for scale in (0.5, 3.0):
            prepare(context, scale)
            inputs = apply_inputs()
            outputs = context.run("apply", inputs)
            np.testing.assert_array_equal(outputs["y"], expected_apply(inputs, scale))
            library.release("prepare")
            context.trim()


def test_inputs_of_any_layout_are_accepted(context: Context) -> None:
    prepare(context, 1.0)
    inputs = apply_inputs()
    crooked = np.empty(ROWS * COLUMNS + 1, np.float32)[1:].reshape(COLUMNS, ROWS).T
    crooked[...] = inputs["x"]
    outputs = context.run("apply", {"x": crooked, "steps": np.repeat(inputs["steps"], 2)[::2]})
    np.testing.assert_array_equal(outputs["y"], expected_apply(inputs, 1.0))


def test_aligned_empty_is_aligned() -> None:
    arrays = [aligned_empty((3, 5), np.float32) for _ in range(20)]
    assert all(array.ctypes.data % 64 == 0 and array.flags.c_contiguous for array in arrays)


def test_assets_are_bytes_of_the_payload(library: Library) -> None:
    assert library.asset(4, 8) == np.array([1, 2], np.float32).tobytes()
    for offset, size in ((-1, 2), (0, 1 << 40), (1 << 62, 1 << 62)):
        with pytest.raises(ArtifactError, match="not inside"):
            library.asset(offset, size)


def test_split_weights_are_found_beside(bare: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(bare, tmp_path / "split.so"))
    write_weights(tmp_path / "split.so.weights")
    with Library.open(path) as library, library.context() as context:
        prepare(context, 1.0)


def test_c_finds_its_own_payload(artifact: Path, bare: Path, tmp_path: Path) -> None:
    split = Path(shutil.copy(bare, tmp_path / "split.so"))
    write_weights(tmp_path / "split.so.weights")
    for path in (artifact, split):
        native, _ = abi.load(path)
        options = abi.OpenOptions(ctypes.sizeof(abi.OpenOptions), abi.ABI_VERSION, None, 1, 0)
        model, error = ctypes.c_void_p(), ctypes.create_string_buffer(500)
        status = native.sdcomp_open(ctypes.byref(options), ctypes.byref(model), error, 500)
        assert status == abi.STATUS_OK, error.value
        assert native.sdcomp_close(model) == abi.STATUS_OK


def test_several_artifacts_and_threads_at_once(artifact: Path, tmp_path: Path) -> None:
    other = shutil.copy(artifact, tmp_path / "other.so")
    failures: list[BaseException] = []

    def use(library: Library, scale: float) -> None:
        try:
            with library.context() as context:
                for seed in range(20):
                    prepare(context, scale)
                    inputs = apply_inputs(seed)
                    expected = expected_apply(inputs, scale)
                    np.testing.assert_array_equal(context.run("apply", inputs)["y"], expected)
        except BaseException as failure:
            failures.append(failure)

    with Library.open(artifact, threads=2) as first, Library.open(other, threads=2) as second:
        users = [
            threading.Thread(target=use, args=(lib, n + 1.0)) for n, lib in enumerate([first, second] * 2)
        ]
        for user in users:
            user.start()
        for user in users:
            user.join()
    assert failures == []


# ---- Observing


@pytest.mark.parametrize("threads", [1, 3])
def test_observers_see_and_change_what_kernels_leave(artifact: Path, threads: int) -> None:
    """Every kernel once, in order; what is written after the first one is what the second reads."""
    seen: list[tuple[int, float]] = []

    def observe(kernel: int, operands: Sequence[int]) -> None:
        first = ctypes.c_float.from_address(operands[(1, 3)[kernel]])
        seen.append((kernel, first.value))
        first.value += 1000 * (1 - kernel)

    with Library.open(artifact, threads=threads) as library, library.context() as context:
        prepare(context, 2.0)
        inputs = apply_inputs()
        y = context.run("apply", inputs, observe=observe)["y"]
        expected = expected_apply(inputs, 2.0)
        square = float(inputs["x"][0, 0] ** 2)
        assert [kernel for kernel, _ in seen] == [0, 1]
        assert seen[0][1] == square
        assert seen[1][1] == y[0, 0] == np.float32(np.float32(square + 1000) + expected[0, 0] - square)
        np.testing.assert_array_equal(y.ravel()[1:], expected.ravel()[1:])
        np.testing.assert_array_equal(context.run("apply", inputs)["y"], expected)


def test_an_observer_that_fails_ends_the_run(context: Context) -> None:
    seen: list[int] = []

    def observe(kernel: int, operands: Sequence[int]) -> None:
        seen.append(kernel)
        raise LookupError("enough")

    prepare(context, 1.0)
    with pytest.raises(LookupError, match="enough"):
        context.run("apply", apply_inputs(), observe=observe)
    assert seen == [0]


def test_an_observed_run_has_no_trace(context: Context) -> None:
    prepare(context, 1.0)
    with pytest.raises(ExecutionError, match="neither progress nor a trace"):
        context.run("apply", apply_inputs(), trace=[], observe=lambda kernel, operands: None)


# ---- Refusals


def test_inputs_that_do_not_fit(context: Context) -> None:
    inputs = apply_inputs()
    with pytest.raises(ExecutionError, match=r"input 'x': expected float32\[4, 64\], found float32\[64, 4\]"):
        context.run("apply", inputs | {"x": inputs["x"].reshape(COLUMNS, ROWS)})
    with pytest.raises(ExecutionError, match=r"input 'steps': expected int32\[4\], found int64\[4\]"):
        context.run("apply", inputs | {"steps": inputs["steps"].astype(np.int64)})
    with pytest.raises(ExecutionError, match="input 'steps' is missing; expected 'x', 'steps'"):
        context.run("apply", {"x": inputs["x"]})
    with pytest.raises(ExecutionError, match="no input 'z'"):
        context.run("apply", inputs | {"z": inputs["x"]})
    with pytest.raises(ExecutionError, match="no program 'unet'; it has prepare, apply, slow"):
        context.run("unet", {})


def test_missing_state_is_asked_for(context: Context) -> None:
    with pytest.raises(ExecutionError, match='"apply" reads what "prepare" leaves behind'):
        context.run("apply", apply_inputs())


def test_every_damaged_part_is_found(artifact: Path, tmp_path: Path) -> None:
    trailer = read_trailer(artifact)
    assert trailer is not None
    places = {
        trailer.payload_offset + 5: f"bytes {trailer.payload_offset} to",
        trailer.payload_offset + trailer.payload_bytes - 1: "are damaged",
        trailer.table_offset + 3: "table of hashes",
        trailer.payload_offset // 2: "its code is damaged",
        -TRAILER.size + 33: "contradicts",
    }
    for position, words in places.items():
        path = damaged_copy(artifact, tmp_path, position)
        with pytest.raises(ArtifactError, match=words) as caught:
            Library.open(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_unverified_open_takes_a_damaged_payload(artifact: Path, tmp_path: Path) -> None:
    trailer = read_trailer(artifact)
    assert trailer is not None
    Library.open(damaged_copy(artifact, tmp_path, trailer.payload_offset), verify=False).close()


def test_truncated_files(artifact: Path, tmp_path: Path) -> None:
    data = artifact.read_bytes()
    path = tmp_path / "short.so"
    for size in (0, 3, 64, 5000, len(data) - 1, len(data) - 64):
        path.write_bytes(data[:size])
        with pytest.raises(ArtifactError, match=r"short\.so: "):
            Library.open(path)


def test_files_that_are_not_artifacts(bare: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(ArtifactError, match=r"notes\.txt: not a shared library"):
        Library.open(text)
    with pytest.raises(ArtifactError, match="No such file"):
        Library.open(tmp_path / "nothing.so")
    with pytest.raises(ArtifactError, match="carries no weights payload"):
        Library.open(bare)
    pretender = tmp_path / "pretender.so"
    pretender.write_bytes(b"\x7fELF" + bytes(1000))
    add_payload(pretender)
    with pytest.raises(ArtifactError, match=r"pretender\.so: cannot be loaded"):
        Library.open(pretender)


def test_a_stranger_is_not_loaded(objects: list[Path], tmp_path: Path) -> None:
    """A library's constructor would run; a file without payload is refused before that."""
    (tmp_path / "stranger.c").write_text(
        "#include <stdlib.h>\n__attribute__((constructor)) static void start(void) { abort(); }\n"
    )
    zig("-shared", tmp_path / "stranger.c", "-o", tmp_path / "stranger.so")
    with pytest.raises(ArtifactError, match="carries no weights payload"):
        Library.open(tmp_path / "stranger.so")


def test_weights_of_another_build(objects: list[Path], tmp_path: Path) -> None:
    path = add_payload(link_library(tmp_path / "mixed.so", objects, "-DFAKE_WEIGHTS_HASH=1ull"))
    with pytest.raises(ArtifactError, match=r"mixed\.so: the weights are of another build"):
        Library.open(path)


def test_missing_cpu_feature_and_version(objects: list[Path], tmp_path: Path) -> None:
    path = add_payload(link_library(tmp_path / "future.so", objects, '-DFAKE_FEATURE="avx9000"'))
    with pytest.raises(ArtifactError, match=r"future\.so: .*CPU features that this machine lacks: avx9000;"):
        Library.open(path)
    path = add_payload(link_library(tmp_path / "version.so", objects, "-DFAKE_ABI_VERSION=7"))
    with pytest.raises(ArtifactError, match=r"version\.so: .*plan has version 7"):
        Library.open(path)


def test_impossible_thread_counts(artifact: Path) -> None:
    for threads in (0, -1, 1025):
        with pytest.raises(UsageError, match="threads: expected 1 to 1024"):
            Library.open(artifact, threads=threads)


def test_closed_things_say_so(artifact: Path) -> None:
    library = Library.open(artifact)
    context = library.context()
    library.close()
    library.close()
    with pytest.raises(ExecutionError, match="closed"):
        prepare(context, 1.0)
    with pytest.raises(ExecutionError, match="closed"):
        library.context()
    context.cancel()
    context.close()


# ---- Cancelling, progress, tracing


def test_cancel_from_another_thread(context: Context) -> None:
    timer = threading.Timer(0.1, context.cancel)
    timer.start()
    begin = time.monotonic()
    with pytest.raises(Cancelled, match='"slow" was cancelled'):
        context.run("slow", {})
    assert time.monotonic() - begin < 1.0
    timer.join()
    prepare(context, 1.0)


def test_ctrl_c_ends_a_run(context: Context) -> None:
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        context.run("slow", {})
    assert time.monotonic() - begin < 1.0
    timer.join()
    prepare(context, 1.0)


def test_closing_ends_a_run(artifact: Path) -> None:
    library = Library.open(artifact, threads=2)
    context = library.context()
    caught: list[BaseException] = []

    def run() -> None:
        try:
            context.run("slow", {})
        except BaseException as error:
            caught.append(error)

    runner = threading.Thread(target=run)
    runner.start()
    time.sleep(0.1)
    library.close()
    runner.join(5)
    assert [type(error) for error in caught] == [Cancelled]


def test_progress_counts_to_the_end(context: Context) -> None:
    prepare(context, 1.0)
    calls: list[tuple[int, int]] = []
    context.run("apply", apply_inputs(), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (2, 2)
    assert calls == sorted(calls)


def test_exception_of_progress_ends_the_run(context: Context) -> None:
    def fail(done: int, total: int) -> None:
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        context.run("prepare", {"scale": np.ones(1, np.float32)}, progress=fail)
    prepare(context, 1.0)


def test_trace_names_programs_kernels_and_workers(context: Context) -> None:
    trace: list[TracedRun] = []
    context.run("prepare", {"scale": np.ones(1, np.float32)}, trace=trace)
    begin = time.monotonic_ns()
    context.run("apply", apply_inputs(), trace=trace)
    end = time.monotonic_ns()
    assert [run.program for run in trace] == ["prepare", "apply"]
    events = trace[1].events
    assert {name for name, _, _, _ in events} == {"square", "combine"}
    assert all(worker in (0, 1) and begin <= start <= stop <= end for _, worker, start, stop in events)
    assert all(stop <= begin for _, _, _, stop in trace[0].events)
    last_square = max(stop for name, _, _, stop in events if name == "square")
    assert all(start >= last_square for name, _, start, _ in events if name == "combine")
