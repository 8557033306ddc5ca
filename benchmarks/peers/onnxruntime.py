"""onnxruntime: the module exported to ONNX with static shapes, in f32."""

from pathlib import Path

import numpy as np

from benchmarks.cases import Array, Case, Program, joined
from benchmarks.peers.base import Peer

_MODEL = "model.onnx"
_OPSET = 20
"""The first with Gelu as one operator."""


class OnnxRuntime(Peer):
    """The CPU provider with all graph optimisations."""

    name = "onnxruntime"
    packages = ("onnxruntime", "onnx", "torch", "diffusers", "transformers")

    def prepare(self, case: Case, folder: Path) -> None:
        """By tracing: exporting by torch.export needs one more package, onnxscript."""
        import torch

        arguments = tuple(map(torch.from_numpy, case.calls()[0]))
        with torch.inference_mode():
            torch.onnx.export(
                case.module().eval(), arguments, folder / _MODEL, opset_version=_OPSET, dynamo=False
            )

    def load(self, case: Case, folder: Path, threads: int) -> Program:
        import onnxruntime  # type: ignore[import-untyped]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(folder / _MODEL, options, providers=["CPUExecutionProvider"])
        names = [argument.name for argument in session.get_inputs()]
        calls = [dict(zip(names, call, strict=True)) for call in case.calls()]

        def outputs(call: dict[str, Array]) -> list[Array]:
            return [np.ascontiguousarray(output) for output in session.run(None, call)]

        return Program(lambda: joined([outputs(call) for call in calls]), None, case.finish)
