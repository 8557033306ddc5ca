"""Families and hyper-parameters, found again in checkpoints that were written from a known configuration."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch
from transformers import CLIPTextConfig, CLIPTextModel

from sdcomp.frontend.checkpoint import Checkpoint
from sdcomp.frontend.config import ModelConfig
from sdcomp.frontend.family import describe, detect, expected_tensors
from sdcomp.frontend.lower import lower_model
from sdcomp.frontend.names import UNET, VAE
from sdcomp.ir.types import TensorType
from tests.checkpoints import small_config, write_checkpoint

TEXT = {"vocabulary": 32}

MODELS: dict[str, dict[str, dict[str, Any]]] = {
    "small": {},
    "one level": {"unet": {"channel_mult": (2,), "transformer_depth": (1,)}},
    "levels of Stable Diffusion 1.x": {
        "unet": {"channel_mult": (1, 2, 4, 4), "transformer_depth": (1, 1, 1, 0)},
        "vae": {"channel_mult": (1, 2, 4, 4)},
    },
    "linear projections": {"unet": {"linear_projection": True}},
    "other depths": {
        "unet": {
            "channel_mult": (1, 2, 3),
            "transformer_depth": (0, 2, 1),
            "middle_depth": 3,
            "res_blocks": 1,
        },
        "vae": {"channel_mult": (1, 1, 2), "encoder_res_blocks": 1, "decoder_res_blocks": 2},
    },
    "wider": {"unet": {"model_channels": 64, "context_channels": 128}, "text": {"width": 128, "heads": 2}},
    "narrow text": {"unet": {"context_channels": 48}, "text": {"width": 48, "heads": 1}},
    "text of odd width": {"unet": {"context_channels": 96}, "text": {"width": 96, "heads": 2}},
    "short text": {"text": {"layers": 1, "mlp_width": 40, "positions": 16}},
    "no encoder": {"vae": {"has_encoder": False}},
    "latents of other depth": {"unet": {"in_channels": 3, "out_channels": 3}, "vae": {"latent_channels": 3}},
}


def detected(path: Path, **options: Any) -> ModelConfig:
    with Checkpoint.open(path) as checkpoint:
        return detect(checkpoint, **options)


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
@pytest.mark.parametrize("name", MODELS)
def test_every_hyper_parameter_is_found_again(tmp_path: Path, name: str, layout: str) -> None:
    parts: dict[str, dict[str, Any]] = {"unet": {}, "vae": {}, "text": {}} | MODELS[name]
    path = tmp_path / "model.safetensors"
    written = write_checkpoint(
        path, unet=parts["unet"], vae=parts["vae"], text=TEXT | parts["text"], layout=layout
    )
    assert replace(detected(path), notes=()) == written


def test_a_pipeline_saved_by_other_libraries_is_understood(tmp_path: Path) -> None:
    """Names and shapes come from diffusers and transformers alone, none from this project."""
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=2, cross_attention_dim=64, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(32, 64), layers_per_block=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=1, vocab_size=32
        )
    )
    networks = {"unet.": unet, "vae.": vae, "text_encoder.": text}
    tensors = {
        prefix + name: tensor.contiguous()
        for prefix, network in networks.items()
        for name, tensor in network.state_dict().items()
    }
    save_torch(tensors, tmp_path / "model.safetensors")
    config = detected(tmp_path / "model.safetensors")
    expected = small_config(unet={"transformer_depth": (1, 0)}, text=TEXT)
    assert replace(config, notes=()) == expected
    with Checkpoint.open(tmp_path / "model.safetensors") as checkpoint:
        found = checkpoint.read(f"{UNET}output_blocks.2.1.conv.weight")
        np.testing.assert_array_equal(found, tensors["unet.up_blocks.0.upsamplers.0.conv.weight"].numpy())
        found = checkpoint.read(f"{VAE}decoder.up.1.upsample.conv.weight")
        np.testing.assert_array_equal(
            found, tensors["vae.decoder.up_blocks.0.upsamplers.0.conv.weight"].numpy()
        )


def test_counts_of_the_full_size_model() -> None:
    """Published parameter counts of Stable Diffusion 1.5."""
    config = small_config(
        unet={
            "model_channels": 320,
            "channel_mult": (1, 2, 4, 4),
            "transformer_depth": (1, 1, 1, 0),
            "context_channels": 768,
        },
        vae={"channels": 128, "channel_mult": (1, 2, 4, 4)},
        text={"width": 768, "layers": 12, "heads": 12, "mlp_width": 3072},
    )
    shapes = expected_tensors(config)
    counts = {
        prefix: (
            sum(name.startswith(prefix) for name in shapes),
            sum(int(np.prod(shape)) for name, shape in shapes.items() if name.startswith(prefix)),
        )
        for prefix in (UNET, VAE, "cond_stage_model.")
    }
    assert counts == {
        UNET: (686, 859_520_964),
        VAE: (248, 83_653_863),
        "cond_stage_model.": (196, 123_060_480),
    }


def test_what_tensors_cannot_tell_is_reported(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.safetensors", text=TEXT)
    notes = " ".join(detected(tmp_path / "a.safetensors").notes)
    for fact in (
        "predicts the noise (eps): the rule",
        "UNet has 8 attention heads: the rule",
        "0.18215: the rule",
    ):
        assert fact in notes
    assert "The text encoder has 1 attention heads: the rule" in notes
    assert "32 tokens, fewer than CLIP's 49408" in notes


def test_metadata_overrides_the_rule_and_options_override_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    metadata = {
        "sdcomp.unet.heads": "4",
        "sdcomp.text.heads": "2",
        "sdcomp.vae.scaling_factor": "0.5",
        "sdcomp.norm_groups": "16",
        "modelspec.prediction_type": "v",
    }
    write_checkpoint(path, text=TEXT, metadata=metadata)
    config = detected(path, prediction="eps")
    assert (config.unet.heads, config.text.heads, config.vae.scaling_factor) == (4, 2, 0.5)
    assert (config.unet.norm_groups, config.vae.norm_groups) == (16, 16)
    assert "A group normalisation has 16 groups: from the file's metadata." in config.notes
    assert "The UNet has 4 attention heads: from the file's metadata." in config.notes
    assert "The UNet predicts the noise (eps): given as an option." in config.notes
    assert detected(path, prediction="eps", heads=2).unet.heads == 2


def test_widths_that_only_fewer_groups_divide(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    narrow = {"unet": {"model_channels": 24}, "vae": {"channels": 8}}
    write_checkpoint(path, text=TEXT, **narrow, metadata={"sdcomp.norm_groups": "8"})
    with Checkpoint.open(path) as checkpoint:
        config = detect(checkpoint)
        types = {name: TensorType(info.shape, info.dtype) for name, info in checkpoint.tensors.items()}
    assert (config.unet.model_channels, config.vae.channels) == (24, 8)
    nodes = (node for graph in lower_model(config, types, [(8, 8)]) for node in graph.nodes())
    assert {node.integer("groups") for node in nodes if node.op == "group_norm"} == {8}


def test_head_width_from_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(
        path, text=TEXT, metadata={"sdcomp.unet.head_channels": "16", "modelspec.prediction_type": "epsilon"}
    )
    unet = detected(path).unet
    assert (unet.heads, unet.head_channels, unet.head_count(64)) == (None, 16, 4)
    assert (detected(path, heads=8).unet.heads, detected(path, heads=8).unet.head_channels) == (8, None)


def test_extra_tensors_are_reported_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, text=TEXT)
    extra = {
        "mystery": np.zeros(1, np.float16),
        f"{UNET}input_blocks.1.1.extra.weight": np.zeros(1, np.float16),
    }
    save_file(load_file(path) | extra, path)
    config = detected(path)
    assert "mystery" in config.notes[-2]
    assert "2: " in config.notes[-2]
    assert not set(extra) & set(expected_tensors(config))


def test_description(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    metadata = {"modelspec.title": "A\x1b[2J title", "modelspec.license": "CC0", "other": "x"}
    config = write_checkpoint(path, text=TEXT, metadata=metadata)
    with Checkpoint.open(path) as checkpoint:
        facts: Any = describe(checkpoint, detect(checkpoint))
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(32, 64), layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip
    assert facts["networks"]["vae"] == {
        "tensors": 156,
        "parameters": sum(p.numel() for p in vae.parameters()),
    }
    assert facts["stored"]["F16"]["tensors"] == len(expected_tensors(config))
    assert facts["stored"]["F16"]["bytes"] == 2 * sum(
        part["parameters"] for part in facts["networks"].values()
    )
    assert facts["metadata"] == {"title": "A[2J title", "license": "CC0"}
    assert (facts["family"], facts["prediction"]) == ("sd1", "eps")
