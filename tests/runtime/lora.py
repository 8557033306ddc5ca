"""A random LoRA in kohya's naming, with convolutions."""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from sdcomp.frontend.config import ModelConfig
from sdcomp.frontend.names import text_layers, unet_layers

RANK = 2
PARTS = (".to_q", ".ff.", ".conv1", ".mlp.", ".q_proj")


def write_lora(path: Path, config: ModelConfig, dora: bool = False) -> None:
    """Factors of a few attention, feed-forward and convolution layers; with DoRA's lengths where `dora`."""
    generator = np.random.default_rng(1)
    tensors: dict[str, Any] = {}
    for prefix, layers in (("lora_te_", text_layers(config.text)), ("lora_unet_", unet_layers(config.unet))):
        for layer in layers:
            if not any(part in layer.alias for part in PARTS) or len(layer.shape) < 2:
                continue
            name = prefix + layer.alias.replace(".", "_")
            outputs, *inputs = layer.shape
            up = generator.standard_normal((outputs, RANK, *(1 for _ in inputs[1:])))
            down = generator.standard_normal((RANK, *inputs)) / np.sqrt(np.prod(inputs))
            tensors[f"{name}.lora_up.weight"] = up.astype(np.float16)
            tensors[f"{name}.lora_down.weight"] = down.astype(np.float16)
            tensors[f"{name}.alpha"] = np.float16(RANK / 2)
            if dora:
                tensors[f"{name}.dora_scale"] = np.ones((outputs, *(1 for _ in inputs)), np.float16)
    save_file({key: np.asarray(value) for key, value in tensors.items()}, path)
