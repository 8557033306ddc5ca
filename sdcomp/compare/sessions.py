"""onnxruntime on the CPU, with all its optimisations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdcomp.compare.cases import Arrays
from sdcomp.errors import ExecutionError
from sdcomp.ir.types import Array

_KINDS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float16)": np.float16}


def open_session(model: Path | bytes, name: Path, threads: int) -> Any:
    """An InferenceSession on a file, or on a serialised model whose weights lie beside the file `name`.

    Raises ExecutionError.
    """
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Its threads would go on spinning into the turn of the artifact.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(name.parent.absolute())
    )
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes, all derived from Exception
        raise ExecutionError(f"{name}: onnxruntime cannot load it: {error}") from None


class OnnxModel:
    """An exported network, called with the arrays of a pipeline."""

    def __init__(self, path: Path, threads: int) -> None:
        self._path = path
        self._session = open_session(path, path, threads)
        self._declared = {value.name: value for value in self._session.get_inputs()}

    def accepts(self, feeds: Arrays) -> bool:
        """Whether the model is for inputs of these shapes. Raises ExecutionError for other names."""
        if set(self._declared) != set(feeds):
            inputs = f"its inputs are {sorted(self._declared)}"
            raise ExecutionError(f"{self._path}: {inputs}, but those of a pipeline are {sorted(feeds)}")
        return all(_accepts(value.shape, feeds[name]) for name, value in self._declared.items())

    def prepared(self, feeds: Arrays) -> Arrays:
        """The inputs in the element types, and scalars in the shape, that the model declares."""
        return {
            name: feeds[name]
            .reshape(() if not value.shape else feeds[name].shape)
            .astype(_KINDS.get(value.type, np.float32))
            for name, value in self._declared.items()
        }

    def run(self, prepared: Arrays, names: Sequence[str]) -> Arrays:
        return dict(zip(names, self._session.run(names, prepared), strict=True))


def _accepts(shape: Sequence[int | str | None], value: Array) -> bool:
    """Whether a declared shape, with names for free extents, takes an array; a scalar may come as [1]."""
    if len(shape) != value.ndim:
        return not shape and value.size == 1
    extents = zip(shape, value.shape, strict=True)
    return all(not isinstance(wanted, int) or wanted == extent for wanted, extent in extents)
