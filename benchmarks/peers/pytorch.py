"""PyTorch, eager: the module as it is, in f32."""

from pathlib import Path

import numpy as np

from benchmarks.cases import Array, Case, Program, joined
from benchmarks.peers.base import Peer


class PyTorch(Peer):
    """torch.inference_mode, oneDNN and MKL as the wheel ships them."""

    name = "torch"
    packages = ("torch", "diffusers", "transformers")

    def load(self, case: Case, folder: Path, threads: int) -> Program:
        import torch

        torch.set_num_threads(threads)
        module = case.module().eval()
        calls = [tuple(map(torch.from_numpy, call)) for call in case.calls()]

        def outputs(call: tuple[torch.Tensor, ...]) -> list[Array]:
            found = module(*call)
            tensors = found if isinstance(found, tuple) else (found,)
            return [np.ascontiguousarray(tensor.numpy()) for tensor in tensors]

        def evaluate() -> list[Array]:
            with torch.inference_mode():
                return joined([outputs(call) for call in calls])

        return Program(evaluate, None, case.finish)
