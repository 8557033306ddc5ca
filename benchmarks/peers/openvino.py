"""OpenVINO: the module converted with static shapes, weights and arithmetic in f32."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import Array, Case
from benchmarks.peers.base import Function, Peer

_MODEL = "model.xml"


class OpenVino(Peer):
    """The CPU plugin, hinted for latency: one stream that has all threads."""

    name = "openvino"
    packages = ("openvino", "torch", "diffusers", "transformers")

    def prepare(self, case: Case, folder: Path) -> None:
        import openvino  # type: ignore[import-untyped]
        import torch

        call = case.calls()[0]
        arguments = tuple(map(torch.from_numpy, call))
        with torch.inference_mode():
            model: Any = openvino.convert_model(
                case.module().eval(), example_input=arguments, input=[array.shape for array in call]
            )
        openvino.save_model(model, folder / _MODEL, compress_to_fp16=False)

    def function(self, case: Case, folder: Path, threads: int) -> Function:
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino.Core().compile_model(folder / _MODEL, "CPU", settings)
        request = compiled.create_infer_request()

        def outputs(call: tuple[Array, ...]) -> list[Array]:
            found = request.infer(dict(enumerate(call)), share_inputs=True)
            return [np.ascontiguousarray(found[port]) for port in compiled.outputs]

        return outputs
