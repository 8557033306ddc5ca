"""Canonical names and module aliases against the diffusers library's own models and conversion."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from transformers import CLIPTextConfig, CLIPTextModel

from sdcomp.frontend.names import (
    TEXT,
    UNET,
    VAE,
    Layer,
    resolve_names,
    text_layers,
    text_module_names,
    unet_layers,
    unet_module_aliases,
    vae_layers,
)
from tests.checkpoints import SMALL, small_config

UNETS: dict[str, dict[str, Any]] = {
    "small": {},
    "Stable Diffusion 1.x": {"channel_mult": (1, 2, 4, 4), "transformer_depth": (1, 1, 1, 0)},
    "one block per level": {"res_blocks": 1, "channel_mult": (1, 2, 3), "transformer_depth": (1, 1, 1)},
    "as deep as XL": {
        "channel_mult": (1, 2, 4),
        "transformer_depth": (0, 2, 10),
        "middle_depth": 10,
        "linear_projection": True,
        "res_blocks": 3,
    },
    "many blocks": {
        "res_blocks": 4,
        "channel_mult": (1, 1, 2),
        "transformer_depth": (1, 0, 2),
        "middle_depth": 2,
    },
}


def tensors(layers: list[Layer]) -> dict[str, torch.Size]:
    """diffusers name and canonical shape of every tensor."""
    return {
        layer.alias + name[len(layer.path) :]: torch.Size(shape)
        for layer in layers
        for name, shape in layer.tensors()
    }


def shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def diffusers_unet(options: dict[str, Any]) -> UNet2DConditionModel:
    config = replace(SMALL.unet, **options)
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in config.transformer_depth]
    up = ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(config.transformer_depth)]
    depths = [max(1, depth) for depth in config.transformer_depth]
    with torch.device("meta"):
        return UNet2DConditionModel(
            block_out_channels=[config.model_channels * multiplier for multiplier in config.channel_mult],
            layers_per_block=config.res_blocks,
            down_block_types=down,
            up_block_types=up,
            transformer_layers_per_block=[*depths[:-1], max(depths[-1], config.middle_depth)],
            cross_attention_dim=config.context_channels,
            use_linear_projection=config.linear_projection,
            attention_head_dim=8,
        )


@pytest.mark.parametrize("name", UNETS)
def test_unet_layers_are_those_of_diffusers(name: str) -> None:
    config = replace(SMALL.unet, **UNETS[name])
    assert tensors(list(unet_layers(config))) == shapes(diffusers_unet(UNETS[name]))


@pytest.mark.parametrize("name", UNETS)
def test_unet_aliases_are_those_of_diffusers_conversion(name: str) -> None:
    config = replace(SMALL.unet, **UNETS[name])
    ours = {
        layer.alias + tensor[len(layer.path) :]: UNET + tensor
        for layer in unet_layers(config)
        for tensor, _ in layer.tensors()
    }
    stored = {canonical: canonical for canonical in ours.values()}
    assert convert_ldm_unet_checkpoint(stored, diffusers_unet(UNETS[name]).config) == ours


def test_unet_module_aliases_of_known_modules() -> None:
    aliases = unet_module_aliases(replace(SMALL.unet, **UNETS["Stable Diffusion 1.x"]))
    assert aliases["input_blocks.1.1.transformer_blocks.0.attn1.to_q"] == (
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    )
    assert aliases["output_blocks.2.1.conv"] == "up_blocks.0.upsamplers.0.conv"
    assert aliases["output_blocks.5.2.conv"] == "up_blocks.1.upsamplers.0.conv"
    assert len(set(aliases.values())) == len(aliases)


@pytest.mark.parametrize(("mult", "blocks"), [((1, 2), 2), ((1, 2, 4, 4), 2), ((1, 1, 2), 1)])
def test_vae_layers_are_those_of_diffusers(mult: tuple[int, ...], blocks: int) -> None:
    options = {"channel_mult": mult, "encoder_res_blocks": blocks, "decoder_res_blocks": blocks + 1}
    layers = list(vae_layers(small_config(vae=options).vae))
    with torch.device("meta"):
        model = AutoencoderKL(
            block_out_channels=[32 * multiplier for multiplier in mult],
            layers_per_block=blocks,
            down_block_types=["DownEncoderBlock2D"] * len(mult),
            up_block_types=["UpDecoderBlock2D"] * len(mult),
            latent_channels=4,
        )
    expected = shapes(model)
    ours = tensors(layers)
    linear = {name: torch.Size(shape[:2]) for name, shape in ours.items() if shape != expected.get(name)}
    assert all("mid_block.attentions.0.to_" in name for name in linear)
    assert ours | linear == expected
    stored = {VAE + name: torch.zeros(shape) for layer in layers for name, shape in layer.tensors()}
    converted = convert_ldm_vae_checkpoint(stored, model.config)
    assert {name: tensor.shape for name, tensor in converted.items()} == expected


def test_text_layers_are_those_of_transformers() -> None:
    config = SMALL.text
    with torch.device("meta"):
        model = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=config.width,
                intermediate_size=config.mlp_width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
            )
        )
    found = {name.removeprefix("text_model."): shape for name, shape in shapes(model).items()}
    found.pop("embeddings.position_ids", None)
    ours = tensors(list(text_layers(config)))
    assert {name.removeprefix("text_model."): shape for name, shape in ours.items()} == found
    assert "text_model.encoder.layers.0.self_attn.q_proj" in text_module_names(config)


def canonical_names() -> list[str]:
    networks = (
        (UNET, unet_layers(SMALL.unet)),
        (VAE, vae_layers(SMALL.vae)),
        (TEXT, text_layers(SMALL.text)),
    )
    return [prefix + name for prefix, layers in networks for layer in layers for name, _ in layer.tensors()]


@pytest.mark.parametrize(
    ("network", "prefix"),
    [
        (UNET, UNET),
        (UNET, "diffusion_model."),
        (UNET, "unet."),
        (UNET, "model."),
        (UNET, ""),
        (VAE, VAE),
        (VAE, "vae."),
        (VAE, ""),
        (TEXT, TEXT),
        (TEXT, "text_encoder."),
        (TEXT, "text_encoders.clip_l.transformer."),
        (TEXT, "te."),
        (TEXT, "te1."),
        (TEXT, "clip_l."),
        (TEXT, ""),
        (f"{TEXT}text_model.", TEXT),
        (f"{TEXT}text_model.", "te."),
    ],
)
def test_every_prefix_of_canonical_names_is_understood(network: str, prefix: str) -> None:
    wanted = [name for name in canonical_names() if name.startswith(network)]
    names = resolve_names(prefix + name.removeprefix(network) for name in wanted)
    assert list(names.stored) == wanted
    assert (names.unknown, names.ignored, names.clashes) == ((), (), ())


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize("prefix", ["unet.", "", "model.", "model.diffusion_model."])
def test_diffusers_names_of_any_unet_are_understood(name: str, prefix: str) -> None:
    layers = list(unet_layers(replace(SMALL.unet, **UNETS[name])))
    names = resolve_names(prefix + tensor for tensor in tensors(layers))
    assert list(names.stored) == [UNET + tensor for layer in layers for tensor, _ in layer.tensors()]
    assert names.unknown == ()


@pytest.mark.parametrize("prefix", ["vae.", "", "first_stage_model."])
@pytest.mark.parametrize("old", [False, True])
def test_diffusers_names_of_a_vae_are_understood(prefix: str, old: bool) -> None:
    layers = list(vae_layers(small_config(vae={"channel_mult": (1, 2, 4, 4)}).vae))
    stored = [prefix + tensor for tensor in tensors(layers)]
    if old:
        for new, former in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            stored = [name.replace(f"attentions.0.{new}.", f"attentions.0.{former}.") for name in stored]
    names = resolve_names(stored)
    assert list(names.stored) == [VAE + tensor for layer in layers for tensor, _ in layer.tensors()]
    assert names.unknown == ()


@pytest.mark.parametrize(
    "name",
    [
        "model_ema.decay",
        "model_ema.diffusion_modelinput_blocks00weight",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "posterior_variance",
        "betas",
        "lvlb_weights",
        "logvar",
        "scale_factor",
        "denoiser.sigmas",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
        "cond_stage_model.logit_scale",
        "cond_stage_model.model.visual.proj",
        "embedding_manager.string_to_param_dict.x",
        "control_model.zero_convs.0.0.weight",
        "first_stage_model.loss.discriminator.main.0.weight",
        "first_stage_model.model_ema.decay",
    ],
)
def test_bookkeeping_is_ignored(name: str) -> None:
    assert resolve_names([name]).ignored == (name,)


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_modelXinput_blocks.0.0.weight",
        "unet.down_blocks.0.resnets.0.norm9.weight",
        "unet.down_blocks.99999999999.resnets.0.norm1.weight",
        "conditioner.embedders.1.model.ln_final.weight",
        "cond_stage_model.model.ln_final.weight",
        "model_input_blocks.0.0.weight",
        "outer.weight",
        "text_projection.weight",
        "",
        "...",
    ],
)
def test_unknown_names_stay_unknown(name: str) -> None:
    assert resolve_names([name]).unknown == (name,)


def test_hostile_depths_do_not_grow_the_dictionary() -> None:
    names = [
        f"unet.down_blocks.{level}.attentions.0.transformer_blocks.{depth}.x" for level, depth in [(7, 99)]
    ]
    names += ["unet.down_blocks.7.resnets.7.x", "vae.decoder.up_blocks.7.resnets.7.x"]
    assert resolve_names(names).unknown == tuple(names)


def test_two_names_of_one_tensor_clash() -> None:
    names = resolve_names(
        ["unet.input_blocks.0.0.weight", "unet.conv_in.bias", "model.input_blocks.0.0.weight"]
    )
    assert names.clashes == (
        (f"{UNET}input_blocks.0.0.weight", "unet.input_blocks.0.0.weight", "model.input_blocks.0.0.weight"),
    )
