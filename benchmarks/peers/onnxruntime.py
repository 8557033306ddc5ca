"""onnxruntime: the module exported to ONNX with static shapes, in f32."""

from pathlib import Path

import numpy as np

from benchmarks.cases import Array, Case
from benchmarks.peers.base import Function, Peer

_MODEL = "model.onnx"
_OPSET = 20
"""The first with Gelu as one operator."""


class OnnxRuntime(Peer):
    """The CPU provider with all graph optimisations."""

    name = "onnxruntime"
    packages = ("onnxruntime", "onnx", "torch", "diffusers", "transformers")

    def prepare(self, case: Case, folder: Path) -> None:
        """By tracing: exporting by torch.export needs one more package, onnxscript. Weights past 2 GiB go
        into files beside the model, but only where its path is text.
        """
        import torch

        arguments = tuple(map(torch.from_numpy, case.calls()[0]))
        path = str(folder / _MODEL)
        with torch.inference_mode():
            torch.onnx.export(case.module().eval(), arguments, path, opset_version=_OPSET, dynamo=False)

    def function(self, case: Case, folder: Path, threads: int) -> Function:
        import onnxruntime  # type: ignore[import-untyped]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(folder / _MODEL, options, providers=["CPUExecutionProvider"])
        names = [argument.name for argument in session.get_inputs()]

        def outputs(call: tuple[Array, ...]) -> list[Array]:
            found = session.run(None, dict(zip(names, call, strict=True)))
            return [np.ascontiguousarray(output) for output in found]

        return outputs
