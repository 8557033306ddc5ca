"""The files beside the models that Hugging Face's pipelines read: configurations and the tokenizer.

Keys and class names are those of diffusers and transformers for Stable Diffusion 1.x.
"""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdcomp.frontend.config import ModelConfig, TextEncoderConfig, UNetConfig, VaeConfig
from sdcomp.frontend.tokenizer import BEGIN_OF_TEXT, CONTEXT_LENGTH, END_OF_TEXT, Tokenizer
from sdcomp.frontend.unet import RES_BLOCK_EPS

Settings = dict[str, Any]

_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"


def write_pipeline_files(folder: Path, config: ModelConfig, tokenizer: Tokenizer, height: int) -> None:
    """Writes everything but the models; `height` is the picture's, in pixels. Raises OSError."""
    vae = vae_config(config.vae, height)
    files: Mapping[str, Settings] = {
        "model_index.json": _model_index(),
        "scheduler/scheduler_config.json": _scheduler_config(config),
        "text_encoder/config.json": text_config(config.text),
        "unet/config.json": unet_config(config.unet, height // config.vae.downscale),
        "vae_decoder/config.json": vae,
        **({"vae_encoder/config.json": vae} if config.vae.has_encoder else {}),
        "tokenizer/tokenizer_config.json": _tokenizer_config(),
        "tokenizer/special_tokens_map.json": _special_tokens(),
    }
    for name, settings in files.items():
        _write(folder / name, json.dumps(settings, indent=2) + "\n")
    _write(folder / "tokenizer/vocab.json", json.dumps(tokenizer.vocabulary(), ensure_ascii=False))
    _write(folder / "tokenizer/merges.txt", gzip.decompress(tokenizer.to_bytes()).decode("utf-8"))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def _model_index() -> Settings:
    absent = [None, None]
    return {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": absent,
        "image_encoder": absent,
        "requires_safety_checker": False,
        "safety_checker": absent,
        "scheduler": ["diffusers", "EulerAncestralDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def _scheduler_config(config: ModelConfig) -> Settings:
    """The noise levels of latent diffusion, visited as `sdcomp run` does by default."""
    return {
        "_class_name": "EulerAncestralDiscreteScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "prediction_type": {"eps": "epsilon"}[config.prediction],
        "steps_offset": 1,
        "timestep_spacing": "linspace",
    }


def unet_config(config: UNetConfig, sample_size: int) -> Settings:
    """Of diffusers' UNet2DConditionModel; `sample_size` in latent pixels.

    Its `attention_head_dim` is a number of heads, by a mistake that became the interface.
    """
    widths = [config.model_channels * multiplier for multiplier in config.channel_mult]
    attends = [depth > 0 for depth in config.transformer_depth]
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": [config.head_count(width) for width in widths],
        "block_out_channels": widths,
        "center_input_sample": False,
        "cross_attention_dim": config.context_channels,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": config.in_channels,
        "layers_per_block": config.res_blocks,
        "mid_block_scale_factor": 1,
        "norm_eps": RES_BLOCK_EPS,
        "norm_num_groups": config.norm_groups,
        "out_channels": config.out_channels,
        "sample_size": sample_size,
        "time_cond_proj_dim": None,
        "transformer_layers_per_block": [max(1, depth) for depth in config.transformer_depth],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        "use_linear_projection": config.linear_projection,
    }


def vae_config(config: VaeConfig, sample_size: int) -> Settings:
    """Of diffusers' AutoencoderKL; `sample_size` in pixels."""
    levels = len(config.channel_mult)
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [config.channels * multiplier for multiplier in config.channel_mult],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": config.image_channels,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.decoder_res_blocks - 1,
        "norm_num_groups": config.norm_groups,
        "out_channels": config.image_channels,
        "sample_size": sample_size,
        "scaling_factor": config.scaling_factor,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def text_config(config: TextEncoderConfig) -> Settings:
    """Of transformers' CLIPTextModel."""
    return {
        "architectures": ["CLIPTextModel"],
        "bos_token_id": BEGIN_OF_TEXT,
        "eos_token_id": END_OF_TEXT,
        "hidden_act": config.activation,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": config.positions,
        "model_type": "clip_text_model",
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "pad_token_id": END_OF_TEXT,
        "projection_dim": config.width,
        "vocab_size": config.vocabulary,
    }


def _special_tokens() -> Settings:
    return {"bos_token": _BEGIN, "eos_token": _END, "pad_token": _END, "unk_token": _END}


def _tokenizer_config() -> Settings:
    return {
        **_special_tokens(),
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": CONTEXT_LENGTH,
        "tokenizer_class": "CLIPTokenizer",
    }
