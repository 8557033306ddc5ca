"""Child processes, one per program, driven over a pipe: only the one that was asked computes.

Each has its own memory, so that peak resident memory is a program's own, and imports nothing but what its
program needs. Times are taken inside of the child, around the evaluation alone.
"""

import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.cases import Array, Program
from benchmarks.memory_usage import own_peak_mb
from sdcomp.errors import ExecutionError, SdcompError

if TYPE_CHECKING:
    from typing_extensions import Self

_PATIENCE = 2.0
"""Seconds for a child to end by itself."""

_SPAWN = multiprocessing.get_context("spawn")


class Child:
    """A process of this one's making that runs `body` with one end of a pipe. A context manager.

    `body` must pickle: a module's function, or a partial of one or of a case's method.
    """

    def __init__(self, name: str, threads: int, body: Callable[[Connection], None]) -> None:
        self.name = name
        self._pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_run, args=(theirs, threads, body), daemon=True)
        self._process.start()
        theirs.close()

    def receive(self) -> Any:
        """The child's next answer. Raises ExecutionError with its words if it failed, or if it died."""
        try:
            succeeded, answer = self._pipe.recv()
        except EOFError:
            self._process.join(timeout=_PATIENCE)
            code = self._process.exitcode
            raise ExecutionError(f"{self.name}: its process ended with code {code}; out of memory?") from None
        if not succeeded:
            raise ExecutionError(f"{self.name}: {answer}")
        return answer

    def ask(self, command: str, argument: float = 0.0) -> Any:
        """The answer to a command. Raises ExecutionError as `receive` does."""
        try:
            self._pipe.send((command, argument))
        except OSError:
            raise ExecutionError(f"{self.name}: its process is gone") from None
        return self.receive()

    def close(self) -> None:
        """Ends the child. May be called again."""
        self._pipe.close()
        self._process.join(timeout=_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Worker(Child):
    """A program in a process of its own. Its methods raise ExecutionError if the child fails or dies."""

    def __init__(self, name: str, threads: int, load: Callable[[], Program]) -> None:
        super().__init__(name, threads, partial(_serve, load))
        try:
            self.multiplies: int | None = self.receive()
        except BaseException:
            self.close()
            raise

    def outputs(self) -> list[Array]:
        """The outputs of one evaluation, which nobody timed, in the layout in which programs are compared."""
        found: list[Array] = self.ask("outputs")
        return found

    def measure(self, seconds: float) -> list[float]:
        """Evaluates once, and on until `seconds` are over; the time of each evaluation, in seconds."""
        times: list[float] = self.ask("measure", seconds)
        return times

    def peak_mb(self) -> float:
        """Peak resident memory so far, loading included, in MiB."""
        peak: float = self.ask("peak")
        return peak


def call_in_child(name: str, threads: int, function: Callable[[], Any]) -> Any:
    """The result of a function that pickles, computed in a process that ends with it.

    Raises ExecutionError if it fails.
    """
    with Child(name, threads, partial(_call, function)) as child:
        return child.receive()


def _run(pipe: Connection, threads: int, body: Callable[[Connection], None]) -> None:
    """What every child does first and last. Ctrl-C is the parent's affair: it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")  # what peers have to say of each other is not for our users
    os.environ.update(OMP_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1")
    try:
        body(pipe)
    except (EOFError, BrokenPipeError):
        return
    except SdcompError as error:
        pipe.send((False, str(error)))
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))


def _call(function: Callable[[], Any], pipe: Connection) -> None:
    pipe.send((True, function()))


def _serve(load: Callable[[], Program], pipe: Connection) -> None:
    program = load()
    pipe.send((True, program.multiplies))
    while True:
        command, argument = pipe.recv()
        pipe.send((True, _answer(program, command, argument)))


def _answer(program: Program, command: str, argument: float) -> Any:
    if command == "outputs":
        return program.finish(_evaluate(program))
    if command == "measure":
        return _measure(program, argument)
    return own_peak_mb()


def _measure(program: Program, seconds: float) -> list[float]:
    times: list[float] = []
    while not times or sum(times) < seconds:
        begin = time.perf_counter()
        _evaluate(program)
        times.append(time.perf_counter() - begin)
    return times


def _evaluate(program: Program) -> list[Array]:
    """One evaluation; fails if its outputs are promises or views that are still to be computed or copied."""
    outputs = program.evaluate()
    if not all(isinstance(output, np.ndarray) and output.flags.c_contiguous for output in outputs):
        raise ExecutionError("an evaluation must return row-major numpy arrays")
    return outputs
