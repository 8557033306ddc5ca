"""Writes the trained networks as one checkpoint in CompVis' layout, f16.

python -m examples.tinyshapes.export WORK_FOLDER
"""

import argparse
import os
from pathlib import Path

import torch
from safetensors.torch import save_file

from examples.tinyshapes.dataset import load_vae
from examples.tinyshapes.networks import NORM_GROUPS, TEXT_HEADS, UNET_HEADS
from examples.tinyshapes.train_model import Diffusion, load_text
from sdcomp.frontend.checkpoint import Checkpoint
from sdcomp.frontend.names import resolve_names

CHECKPOINT = Path(__file__).parent / "tinyshapes.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=CHECKPOINT)
    arguments = parser.parse_args()
    model, factor = load_average(arguments.folder)
    export(model, load_vae(arguments.folder), factor, arguments.output)
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes")


def load_average(folder: Path) -> tuple[Diffusion, float]:
    """The moving average of the trained model, and the scaling factor of its latents."""
    state = torch.load(folder / "model.pt", weights_only=True)
    model = load_text(folder).eval().requires_grad_(False)
    model.unet.load_state_dict(state["average"])
    return model, state["factor"]


def export(model: Diffusion, vae: torch.nn.Module, factor: float, path: Path) -> None:
    """Writes the checkpoint; names come from the same dictionary that reads diffusers' files."""
    networks = {"unet.": model.unet, "vae.": vae, "text_encoder.": model.text}
    tensors = {
        prefix + name: value
        for prefix, network in networks.items()
        for name, value in network.state_dict().items()
    }
    names = resolve_names(tensors)
    if names.unknown or names.clashes:
        raise SystemExit(f"no canonical names for {names.unknown or names.clashes}")
    half = {canonical: _stored(canonical, tensors[name]) for canonical, name in names.stored.items()}
    temporary = path.resolve().with_suffix(".tmp")
    save_file(half, temporary, metadata=metadata(factor))
    os.replace(temporary, path.resolve())
    with Checkpoint.open(path) as checkpoint:
        assert len(checkpoint.tensors) == len(half)


def _stored(name: str, value: torch.Tensor) -> torch.Tensor:
    """Half precision, and the autoencoder's attention as the 1x1 convolutions that CompVis made of it."""
    if ".mid.attn_1." in name and value.ndim == 2:
        value = value[:, :, None, None]
    return value.detach().half().contiguous()


def metadata(factor: float) -> dict[str, str]:
    """Who made it and what tensors cannot tell."""
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.implementation": "https://github.com/CompVis/stable-diffusion",
        "modelspec.title": "tinyshapes",
        "modelspec.author": "The sdcomp authors",
        "modelspec.description": "Flat shapes in named colours, at toy width, trained on drawn pictures",
        "modelspec.license": "Apache-2.0",
        "modelspec.resolution": "64x64",
        "modelspec.prediction_type": "epsilon",
        "sdcomp.norm_groups": str(NORM_GROUPS),
        "sdcomp.unet.heads": str(UNET_HEADS),
        "sdcomp.text.heads": str(TEXT_HEADS),
        "sdcomp.vae.scaling_factor": str(factor),
    }


if __name__ == "__main__":
    main()
