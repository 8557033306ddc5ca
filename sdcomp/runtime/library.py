"""Opens artifacts: the C interface of `native/sdcomp.h`, typed."""

import ctypes
import json
import os
import threading
import weakref
from _ctypes import dlclose
from ctypes import byref, c_void_p, sizeof
from pathlib import Path
from types import TracebackType
from typing import Any

from sdcomp.errors import ArtifactError, ExecutionError, UsageError
from sdcomp.runtime import abi
from sdcomp.runtime.context import Context
from sdcomp.runtime.programs import ProgramInfo, read_programs
from sdcomp.runtime.strengths import STRENGTHS, strength_pairs, strength_vector

THREAD_LIMIT = 1024


def _close_model(native: ctypes.CDLL, model: int) -> None:
    """Unloads the code only once nothing of it can be in use."""
    if native.sdcomp_close(model) == abi.STATUS_OK:
        dlclose(native._handle)


def _open_model(path: Path, native: ctypes.CDLL, options: abi.OpenOptions) -> int:
    model, error = c_void_p(), ctypes.create_string_buffer(abi.ERROR_BYTES)
    native.sdcomp_open(byref(options), byref(model), error, len(error))
    if model.value is not None:
        return model.value
    dlclose(native._handle)
    text = error.value.decode(errors="replace")
    raise ArtifactError(text if str(path) in text else f"{path}: {text}")


class Library:
    """An open artifact: mapped weights and a pool of threads. May be used from several threads.

    `programs` are its programs by name, `manifest` is what the compiler tells about it, parsed, `threads`
    the number of threads that compute. A context manager; closing it closes its contexts.
    """

    def __init__(self, path: Path, native: ctypes.CDLL, model: int) -> None:
        self.path = path
        self._native = native
        self._model = model
        self._finalizer = weakref.finalize(self, _close_model, native, model)
        self._lock = threading.Lock()
        self._closed = False
        self._contexts: weakref.WeakSet[Context] = weakref.WeakSet()
        try:
            self.manifest: dict[str, Any] = json.loads(native.sdcomp_describe(model))
            self.programs: dict[str, ProgramInfo] = read_programs(native, model)
        except ValueError as error:
            self.close()
            raise ArtifactError(f"{path}: its manifest cannot be read: {error}; build it again") from error
        self.threads: int = native.sdcomp_thread_count(model)

    @classmethod
    def open(cls, path: str | os.PathLike[str], threads: int | None = None, verify: bool = True) -> "Library":
        """Opens an artifact. `threads` defaults to the number of CPUs that the process may use.

        `verify` reads the whole payload and compares its hashes. Raises `ArtifactError` for a file that is
        not an artifact, is damaged, or is for another CPU, and `UsageError` for an impossible number of
        threads. A stranger's artifact is a stranger's program: see `sdcomp.runtime.abi.load`.
        """
        if threads is not None and not 1 <= threads <= THREAD_LIMIT:
            raise UsageError(f"threads: expected 1 to {THREAD_LIMIT}, found {threads}")
        absolute = Path(path).absolute()
        native, payload_path = abi.load(absolute)
        flags = 0 if verify else abi.OPEN_UNVERIFIED
        size = sizeof(abi.OpenOptions)
        options = abi.OpenOptions(size, abi.ABI_VERSION, os.fsencode(payload_path), threads or 0, flags)
        return cls(absolute, native, _open_model(absolute, native, options))

    def context(self) -> Context:
        """A new context: an arena, and the state that programs leave for each other. Live adapters have the
        strengths that they were built with.

        Raises `ExecutionError` where there is no memory for it.
        """
        with self._lock:
            handle, error = c_void_p(), ctypes.create_string_buffer(abi.ERROR_BYTES)
            self._native.sdcomp_context_create(self._open_handle(), byref(handle), error, len(error))
            if handle.value is None:
                raise ExecutionError(f"{self.path}: {error.value.decode(errors='replace')}")
            context = Context(self, self.path, self.programs, self._native, handle.value)
            context.defaults = {STRENGTHS: strength_vector(strength_pairs(self.manifest, {}))}
            self._contexts.add(context)
            return context

    def release(self, program: str) -> None:
        """Gives the memory of a program's weights back; they come back from the file when next read.

        Raises `ExecutionError` for a name that is no program's.
        """
        if program not in self.programs:
            raise ExecutionError(f"{self.path}: no program {program!r}; it has {', '.join(self.programs)}")
        with self._lock:
            self._native.sdcomp_release(self._open_handle(), self.programs[program].index)

    def asset(self, offset: int, size: int) -> bytes:
        """A copy of bytes of the payload, as the manifest places them.

        Raises `ArtifactError` where they are not inside of it.
        """
        with self._lock:
            model = self._open_handle()
            known = 0 <= offset < 1 << 63 and 0 < size < 1 << 63
            address = self._native.sdcomp_asset(model, offset, size) if known else None
            if address is None:
                end = offset + size
                raise ArtifactError(f"{self.path}: bytes {offset} to {end} are not inside its payload")
            return ctypes.string_at(address, size)

    def close(self) -> None:
        """Closes every context, cancelling what runs, and gives all memory back. May be called again."""
        with self._lock:
            self._closed = True
            contexts = list(self._contexts)
        for context in contexts:  # outside of the lock: the run that ends may be asking for an asset
            context.close()
        with self._lock:
            self._finalizer()

    def __enter__(self) -> "Library":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_handle(self) -> int:
        if self._closed:
            raise ExecutionError(f"{self.path}: is closed")
        return self._model
