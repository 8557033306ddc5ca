"""Runs the programs of an open artifact with numpy arrays."""

import ctypes
import math
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from ctypes import byref, c_uint64, c_void_p, sizeof
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sdcomp.errors import Cancelled, ExecutionError
from sdcomp.runtime import abi
from sdcomp.runtime.interrupt import call_interruptibly
from sdcomp.runtime.programs import ProgramInfo, TensorInfo

Array: TypeAlias = npt.NDArray[Any]
Progress: TypeAlias = Callable[[int, int], None]

#: Number of a kernel that has just run, and the addresses of its operands by number.
Observe: TypeAlias = Callable[[int, Sequence[int]], None]

#: Name of the kernel, worker, begin and end in nanoseconds of `time.monotonic_ns`.
TraceEvent: TypeAlias = tuple[str, int, int, int]


@dataclass(frozen=True)
class TracedRun:
    """One run of a program: an event for every range of work, in no particular order."""

    program: str
    events: tuple[TraceEvent, ...]


def aligned_empty(shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """An uninitialised row-major array that starts at a multiple of 64 bytes, as kernels expect."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.empty(size + abi.ALIGNMENT, dtype=np.uint8)
    start = -buffer.ctypes.data % abi.ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)


def aligned(array: Array) -> Array:
    """The array as kernels read it, itself if it already is row-major and aligned: a run copies others."""
    if array.flags.c_contiguous and array.ctypes.data % abi.ALIGNMENT == 0:
        return array
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def _pointers(arrays: Sequence[Array]) -> ctypes.Array[c_void_p]:
    return (c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


def _describe_inputs(info: ProgramInfo) -> str:
    return "expected " + (", ".join(repr(tensor.name) for tensor in info.inputs) or "none")


def _check_input(info: ProgramInfo, tensor: TensorInfo, inputs: Mapping[str, Array]) -> Array:
    where = f"program {info.name}: input {tensor.name!r}"
    if tensor.name not in inputs:
        raise ExecutionError(f"{where} is missing; {_describe_inputs(info)}")
    array = inputs[tensor.name]
    if array.shape != tensor.shape or array.dtype != tensor.dtype.numpy:
        found = f"{array.dtype}{list(array.shape)}"
        raise ExecutionError(f"{where}: expected {tensor.dtype.numpy}{list(tensor.shape)}, found {found}")
    return aligned(array)


class Context:
    """The memory of one picture in the making; `Library.context` makes it. Runs in one context take turns.

    A context manager. `owner` is what must stay open while the context is. `defaults` are inputs that every
    program takes which has them and is not given them.
    """

    def __init__(
        self, owner: object, path: Path, programs: Mapping[str, ProgramInfo], native: ctypes.CDLL, handle: int
    ) -> None:
        self._owner = owner
        self._path = path
        self._programs = programs
        self._native = native
        self._handle = handle
        self._finalizer = weakref.finalize(self, native.sdcomp_context_destroy, handle)
        self.defaults: Mapping[str, Array] = {}
        self._turn = threading.Lock()  # held while a program runs
        self._guard = threading.Lock()  # held while the handle is used beside a run

    def run(
        self,
        program: str,
        inputs: Mapping[str, Array],
        progress: Progress | None = None,
        trace: list[TracedRun] | None = None,
        observe: Observe | None = None,
    ) -> dict[str, Array]:
        """Runs a program with one array per input and returns one new array per output, by name.

        `progress(done, total)` counts kernels; it is called on the thread that computes, which is a helper
        where the caller is the main thread, and an exception of it ends the run. `trace` receives one entry
        if the run succeeds. `observe(kernel, operands)` is called after each kernel, which then run one
        after the other, and may read and write their memory; an exception of it ends the run too. It goes
        with neither of the others.

        Raises `ExecutionError` for inputs that do not fit and for state that another program must leave
        first, `Cancelled` after `cancel`. Ctrl-C on the main thread ends the run within milliseconds.
        """
        info = self._find(program)
        names = {tensor.name for tensor in info.inputs}
        inputs = {**{name: value for name, value in self.defaults.items() if name in names}, **inputs}
        arrays = [_check_input(info, tensor, inputs) for tensor in info.inputs]
        unknown = sorted(set(inputs) - names)
        if unknown:
            raise ExecutionError(f"program {program}: no input {unknown[0]!r}; {_describe_inputs(info)}")
        outputs = [aligned_empty(tensor.shape, tensor.dtype.numpy) for tensor in info.outputs]
        call = _Call(self._native, info, arrays, outputs, progress, observe, self.cancel, trace is not None)
        call.check(call_interruptibly(lambda: self._run(call), self.cancel), self._path)
        if trace is not None:
            trace.append(TracedRun(program, call.events()))
        return {tensor.name: output for tensor, output in zip(info.outputs, outputs, strict=True)}

    def cancel(self) -> None:
        """Ends the run in progress, if there is one, with `Cancelled`. May be called from any thread."""
        with self._guard:
            if self._finalizer.alive:
                self._native.sdcomp_cancel(self._handle)

    def trim(self) -> None:
        """Gives the arena's pages back to the system, after a run in progress; the state stays."""
        with self._turn:
            self._native.sdcomp_context_trim(self._open_handle())

    def close(self) -> None:
        """Cancels a run in progress, waits for it, and gives all memory back. May be called again."""
        while not self._turn.acquire(timeout=0.01):
            self.cancel()
        with self._guard:
            self._finalizer()
        self._turn.release()

    def __enter__(self) -> "Context":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, call: "_Call") -> int:
        """The thread that computes holds the turn, so that memory outlives the run, whoever gave up on it."""
        with self._turn:
            return call.run(self._open_handle())

    def _find(self, program: str) -> ProgramInfo:
        if program not in self._programs:
            known = ", ".join(self._programs)
            raise ExecutionError(f"{self._path}: no program {program!r}; it has {known}")
        return self._programs[program]

    def _open_handle(self) -> int:
        if not self._finalizer.alive:
            raise ExecutionError(f"{self._path}: this context is closed")
        return self._handle


class _Call:
    """One call of sdcomp_run with everything that must stay alive until it returns."""

    def __init__(
        self,
        native: ctypes.CDLL,
        info: ProgramInfo,
        inputs: list[Array],
        outputs: list[Array],
        progress: Progress | None,
        observe: Observe | None,
        cancel: Callable[[], None],
        traced: bool,
    ) -> None:
        self._native = native
        self._info = info
        self._arrays = (inputs, outputs)
        self._progress = progress
        self._observe = observe
        self._cancel = cancel
        self._failure: BaseException | None = None
        self._error = ctypes.create_string_buffer(abi.ERROR_BYTES)
        self._events = (abi.NativeTraceEvent * info.trace_events)() if traced else None
        self._event_count = c_uint64(0)

    def run(self, handle: int) -> int:
        options = abi.RunOptions(sizeof(abi.RunOptions))
        if self._progress is not None:
            options.progress = abi.ProgressCallback(self._report)
        if self._observe is not None:
            options.observe = abi.ObserveCallback(self._show)
        if self._events is not None:
            options.trace = self._events
            options.trace_capacity = len(self._events)
            options.trace_count = ctypes.pointer(self._event_count)
        inputs, outputs = map(_pointers, self._arrays)
        error = self._error
        return int(
            self._native.sdcomp_run(
                handle, self._info.index, inputs, outputs, byref(options), error, len(error)
            )
        )

    def check(self, status: int, path: Path) -> None:
        if self._failure is not None:
            raise self._failure
        text = f"{path}: {self._error.value.decode(errors='replace')}"
        if status == abi.STATUS_CANCELLED:
            raise Cancelled(text)
        if status != abi.STATUS_OK:
            raise ExecutionError(text)

    def events(self) -> tuple[TraceEvent, ...]:
        names = self._info.kernels
        found = self._events[: self._event_count.value] if self._events is not None else []
        return tuple((names[event.kernel], event.worker, event.begin_ns, event.end_ns) for event in found)

    def _report(self, user: int | None, done: int, total: int) -> None:
        if self._progress is not None:
            self._guarded(self._progress, done, total)

    def _show(self, user: int | None, kernel: int, operands: Sequence[int]) -> None:
        if self._observe is not None:
            self._guarded(self._observe, kernel, operands)

    def _guarded(self, callback: Callable[..., None], *arguments: Any) -> None:
        """ctypes would print an exception and go on, so it is kept for `check` and the run is cancelled."""
        if self._failure is not None:
            return
        try:
            callback(*arguments)
        except BaseException as failure:
            self._failure = failure
            self._cancel()
