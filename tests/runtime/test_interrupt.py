"""Ctrl-C at the worst moments: while the thread that makes the call starts."""

import threading
from collections.abc import Callable

import pytest

from sdcomp.runtime.interrupt import call_interruptibly

PATIENCE = 20


class Call:
    """A call that runs until it is cancelled."""

    def __init__(self) -> None:
        self.begun, self.cancelled, self.ended = (threading.Event() for _ in range(3))

    def __call__(self) -> None:
        self.begun.set()
        assert self.cancelled.wait(PATIENCE)
        self.ended.set()


def interrupted(call: Call, start: Callable[[threading.Thread], None], patch: pytest.MonkeyPatch) -> None:
    """Makes the call with threads that start like this; it is over when the interrupt arrives here."""
    patch.setattr(threading.Thread, "start", start)
    try:
        with pytest.raises(KeyboardInterrupt):
            call_interruptibly(call, call.cancelled.set)
    finally:
        ended = call.ended.is_set() or not call.begun.is_set()
        call.cancelled.set()
    assert ended


def test_interrupt_right_after_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    start, call = threading.Thread.start, Call()

    def start_and_raise(thread: threading.Thread) -> None:
        start(thread)
        assert call.begun.wait(PATIENCE)
        raise KeyboardInterrupt

    interrupted(call, start_and_raise, monkeypatch)
    assert call.ended.is_set()


def test_interrupt_right_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Call()

    def only_raise(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    interrupted(call, only_raise, monkeypatch)
    assert not call.begun.is_set()


def test_a_thread_that_comes_too_late_makes_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    start, call, late = threading.Thread.start, Call(), []

    def keep_and_raise(thread: threading.Thread) -> None:
        late.append(thread)
        raise KeyboardInterrupt

    interrupted(call, keep_and_raise, monkeypatch)
    start(late[0])
    late[0].join(PATIENCE)
    assert not call.begun.is_set()
