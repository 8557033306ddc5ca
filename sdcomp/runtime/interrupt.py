"""Calls into native code that Ctrl-C can end."""

import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

#: Python handles signals between two waits of the main thread; the wait ends early when the call does.
_WAIT_SECONDS = 0.05


def call_interruptibly(call: Callable[[], Result], cancel: Callable[[], None]) -> Result:
    """Returns call(). On the main thread it runs on a helper, while the main thread stays open to signals.

    Python runs signal handlers on the main thread only, and not while that is inside native code. Where a
    handler raises (KeyboardInterrupt, SystemExit), `cancel` is called until the call has ended, since it may
    not have begun when first asked, and the exception goes on. Elsewhere the call runs where it is.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    results: list[Result] = []
    failures: list[BaseException] = []
    helper = threading.Thread(target=_keep_outcome, args=(call, results, failures), daemon=True)
    helper.start()
    try:
        while helper.is_alive():
            helper.join(_WAIT_SECONDS)
    except BaseException:
        while helper.is_alive():
            cancel()
            helper.join(_WAIT_SECONDS / 10)
        raise
    if failures:
        raise failures[0]
    return results[0]


def _keep_outcome(call: Callable[[], Result], results: list[Result], failures: list[BaseException]) -> None:
    try:
        results.append(call())
    except BaseException as failure:
        failures.append(failure)
