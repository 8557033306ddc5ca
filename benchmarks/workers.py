"""Programs in child processes, one each: only the one that was asked computes.

Each has its own memory, so that peak resident memory is a program's own, and imports nothing but what its
program needs. Times are taken inside of the child, around the evaluation alone.
"""

import os
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.cases import Array, Program
from benchmarks.memory_usage import MEBIBYTE
from sdcomp import workers
from sdcomp.errors import ExecutionError, SdcompError

if TYPE_CHECKING:
    from typing_extensions import Self

Answer = Callable[[tuple[str, float]], Any]
"""From a command and its argument to the answer."""


class Worker:
    """A program in a process of its own. Its methods raise ExecutionError if the child fails or dies.

    `load` must pickle: a module's function, or a partial of one or of a case's method.
    """

    def __init__(self, name: str, threads: int, load: Callable[[], Program]) -> None:
        self.name = name
        self._worker = workers.Worker(name, _serve, name, threads, load)
        try:
            self.multiplies: int | None = self._worker.ask(("multiplies", 0.0))
        except BaseException:
            self.close()
            raise

    def outputs(self) -> list[Array]:
        """The outputs of one evaluation, which nobody timed, in the layout in which programs are compared."""
        found: list[Array] = self._worker.ask(("outputs", 0.0))
        return found

    def measure(self, seconds: float) -> list[float]:
        """Evaluates once, and on until `seconds` are over; the time of each evaluation, in seconds."""
        times: list[float] = self._worker.ask(("measure", seconds))
        return times

    def peak_mb(self) -> float:
        """Peak resident memory so far, loading included, in MiB."""
        peak: float = self._worker.ask(("peak", 0.0))
        return peak

    def close(self) -> None:
        """Ends the child. May be called again."""
        self._worker.close()

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


def call_in_child(name: str, threads: int, function: Callable[[], Any]) -> Any:
    """The result of a function that pickles, computed in a process that ends with it.

    Raises ExecutionError if it fails.
    """
    with workers.Worker(name, _serve_call, name, threads, function) as worker:
        return worker.ask(None)


def _serve_call(name: str, threads: int, function: Callable[[], Any]) -> Callable[[None], Any]:
    return lambda question: _told(name, lambda: _prepared(threads, function))


def _serve(name: str, threads: int, load: Callable[[], Program]) -> Answer:
    program = _told(name, lambda: _prepared(threads, load))
    return lambda question: _told(name, lambda: _answer(program, *question))


def _prepared(threads: int, function: Callable[[], Any]) -> Any:
    warnings.simplefilter("ignore")  # what peers have to say of each other is not for our users
    os.environ.update(OMP_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1")
    return function()


def _told(name: str, function: Callable[[], Any]) -> Any:
    """Peers raise what they like: whatever it is becomes one line with the name of the program."""
    try:
        return function()
    except SdcompError as error:
        raise ExecutionError(f"{name}: {error}") from None
    except Exception as error:
        raise ExecutionError(f"{name}: {type(error).__name__}: {error}") from None


def _answer(program: Program, command: str, argument: float) -> Any:
    if command == "multiplies":
        return program.multiplies
    if command == "outputs":
        return program.finish(_evaluate(program))
    if command == "measure":
        return _measure(program, argument)
    return workers.peak_bytes() / MEBIBYTE


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
