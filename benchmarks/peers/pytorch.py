"""PyTorch, eager: the module as it is, in f32."""

from pathlib import Path

import numpy as np

from benchmarks.cases import Array, Case
from benchmarks.peers.base import Function, Peer


class PyTorch(Peer):
    """torch.inference_mode, oneDNN and MKL as the wheel ships them."""

    name = "torch"
    packages = ("torch", "diffusers", "transformers")

    def function(self, case: Case, folder: Path, threads: int) -> Function:
        import torch

        torch.set_num_threads(threads)
        module = case.module().eval()

        def outputs(call: tuple[Array, ...]) -> list[Array]:
            with torch.inference_mode():
                found = module(*map(torch.from_numpy, call))
            tensors = found if isinstance(found, tuple) else (found,)
            return [np.ascontiguousarray(tensor.numpy()) for tensor in tensors]

        return outputs
