"""Calls into native code that Ctrl-C can end."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")

#: Python handles signals between two waits of the main thread; a wait ends early when the call does.
_WAIT_SECONDS = 0.05


class _Outcome(Generic[Result]):
    """What becomes of a call, which is made unless it was given up before it began.

    `ended` is an event and not the thread's own join, which takes a thread for dead when a signal handler
    raises during it (CPython 3.10 to 3.12).
    """

    def __init__(self, call: Callable[[], Result]) -> None:
        self._call = call
        self._results: list[Result] = []
        self._failure: BaseException | None = None
        self._ticket = threading.Lock()
        self.ended = threading.Event()

    def record(self) -> None:
        """Makes the call, for a helper thread."""
        if not self._ticket.acquire(blocking=False):
            return
        try:
            self._results.append(self._call())
        except BaseException as failure:
            self._failure = failure
        finally:
            self.ended.set()

    def finish(self, cancel: Callable[[], None]) -> None:
        """Returns once the call has ended, cancelled as often as it takes, or can no longer begin."""
        if self._ticket.acquire(blocking=False):
            return
        while not self.ended.wait(_WAIT_SECONDS / 10):
            cancel()

    def result(self) -> Result:
        if self._failure is not None:
            raise self._failure
        return self._results[0]


def call_interruptibly(call: Callable[[], Result], cancel: Callable[[], None]) -> Result:
    """Returns call(). On the main thread it runs on a helper, while the main thread stays open to signals.

    Python runs signal handlers on the main thread only, and not while that is inside native code. Where a
    handler raises (KeyboardInterrupt, SystemExit), perhaps while the helper starts, `cancel` is called until
    the call has ended, and the exception goes on. Elsewhere the call runs where it is.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    outcome = _Outcome(call)
    try:
        threading.Thread(target=outcome.record, daemon=True).start()
        while not outcome.ended.wait(_WAIT_SECONDS):
            pass
    except BaseException:
        outcome.finish(cancel)
        raise
    return outcome.result()
