"""Processes that answer questions: for measurements that must not share memory or threads with anything."""

import multiprocessing
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sdcomp.errors import ExecutionError, SdcompError

_STATUS = Path("/proc/self/status")
_PATIENCE = 10.0


def peak_bytes() -> int:
    """The largest resident memory that this process had; mapped files count as far as they were read.

    From VmHWM where there is one: getrusage's figure outlives exec, so a child would report its parent's.
    """
    if _STATUS.exists():
        lines = _STATUS.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Worker:
    """A fresh process that calls `make(*arguments)` and answers questions with the function it returned.

    `make`, questions and answers must be picklable. A context manager; leaving it ends the process.
    """

    def __init__(self, name: str, make: Callable[..., Callable[[Any], Any]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, question: Any) -> Any:
        """The answer. Raises the SdcompError that the process raised, ExecutionError where it died."""
        try:
            self._connection.send(question)
            answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(_PATIENCE)
            code = self._process.exitcode
            raise ExecutionError(
                f"the process of {self._name} ended with code {code}; -9 is mostly a lack of memory"
            ) from None
        if isinstance(answer, SdcompError):
            raise answer
        return answer

    def close(self) -> None:
        """Ends the process. May be called again."""
        self._connection.close()
        self._process.terminate()
        self._process.join()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


def _serve(connection: Connection, make: Callable[..., Callable[[Any], Any]], arguments: Any) -> None:
    """Ctrl-C is the parent's business, which ends this process then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answer: Callable[[Any], Any] | None = None
    while True:
        try:
            question = connection.recv()
            answer = answer or make(*arguments)
            connection.send(answer(question))
        except EOFError:
            return
        except SdcompError as error:
            connection.send(error)
