"""Names of modules: of every tool, and of models with the shapes of SD 1, SD 2 and SDXL."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.numpy import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdcomp.frontend.adapters import open_adapter
from sdcomp.frontend.adapters.aliases import (
    FIRST_OF_TWO,
    SECOND_OF_TWO,
    TEXT,
    UNET,
    Target,
    alias_table,
    module_aliases,
    text_targets,
    unet_targets,
)
from sdcomp.frontend.adapters.match import match, match_aliases
from sdcomp.frontend.adapters.openclip import open_clip_targets
from sdcomp.frontend.config import ModelConfig, TextEncoderConfig, UNetConfig
from sdcomp.frontend.names import text_layers, unet_layers
from sdcomp.frontend.weights import WeightSource
from sdcomp.ir.interpret import evaluate
from tests.checkpoints import SMALL
from tests.frontend.adapter_case import BOUND, Tensors, random
from tests.passes.graphs import Array, error, weight

MODEL = "model.diffusion_model."
QUERY = f"{MODEL}input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
OUT = f"{MODEL}input_blocks.1.1.transformer_blocks.0.attn1.to_out.0.weight"
CLIP = "cond_stage_model.transformer.text_model.encoder.layers.0."

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
SPELLINGS: dict[str, tuple[str, str]] = {
    "sd-scripts, diffusers' names": (
        "lora_unet_down_blocks_0_attentions_0_proj_in",
        "input_blocks.1.1.proj_in",
    ),
    "sd-scripts, LDM's names": ("lora_unet_input_blocks_1_1_proj_in", "input_blocks.1.1.proj_in"),
    "LyCORIS": ("lycoris_down_blocks_0_attentions_0_proj_in", "input_blocks.1.1.proj_in"),
    "OFT of sd-scripts": ("oft_unet_down_blocks_0_attentions_0_proj_in", "input_blocks.1.1.proj_in"),
    "diffusers": ("unet.down_blocks.0.attentions.0.proj_in", "input_blocks.1.1.proj_in"),
    "bare": ("down_blocks.0.attentions.0.proj_in", "input_blocks.1.1.proj_in"),
    "PEFT": ("base_model.model.down_blocks.0.attentions.0.proj_in", "input_blocks.1.1.proj_in"),
    "PEFT in a folder": ("unet.base_model.model.conv_in", "input_blocks.0.0"),
    "ComfyUI": ("diffusion_model.input_blocks.0.0", "input_blocks.0.0"),
    "checkpoint": ("model.diffusion_model.time_embed.2", "time_embed.2"),
    "upsampler": ("lora_unet_up_blocks_0_upsamplers_0_conv", "output_blocks.2.2.conv"),
    "last layer": ("lora_unet_conv_out", "out.2"),
    "normalisation": ("lora_unet_conv_norm_out", "out.0"),
}
TEXT_SPELLINGS = (
    *("lora_te_text_model_encoder_layers_0_mlp_fc1", "lora_te1_text_model_encoder_layers_0_mlp_fc1"),
    *("lora_te_encoder_layers_0_mlp_fc1", "oft_te_text_model_encoder_layers_0_mlp_fc1"),
    *("text_encoder.text_model.encoder.layers.0.mlp.fc1", "text_encoder.encoder.layers.0.mlp.fc1"),
    *("base_model.model.text_model.encoder.layers.0.mlp.fc1", "clip_l.text_model.encoder.layers.0.mlp.fc1"),
    "text_encoder.base_model.model.text_model.encoder.layers.0.mlp.fc1",
    "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1",
)


@pytest.fixture(scope="module")
def aliases() -> dict[str, Target]:
    return module_aliases(SMALL)


@pytest.mark.parametrize("case", SPELLINGS)
def test_unet(case: str, aliases: dict[str, Target]) -> None:
    name, expected = SPELLINGS[case]
    assert aliases[name].weight == f"{MODEL}{expected}.weight"
    assert not aliases[name].is_text


@pytest.mark.parametrize("name", TEXT_SPELLINGS)
def test_text_encoder(name: str, aliases: dict[str, Target]) -> None:
    assert aliases[name].weight == f"{CLIP}mlp.fc1.weight"
    assert aliases[name].is_text


def test_layers_without_bias_have_none(aliases: dict[str, Target]) -> None:
    assert aliases[f"unet.{BLOCK}.to_q"].bias is None
    assert aliases[f"unet.{BLOCK}.to_out.0"].bias == OUT.removesuffix("weight") + "bias"


PROCESSORS = {
    f"unet.{BLOCK}.processor.to_q_lora": QUERY,
    f"unet.{BLOCK}.processor.to_out_lora": OUT,
    f"{BLOCK}.processor.to_q_lora": QUERY,
    "text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora": f"{CLIP}self_attn.out_proj.weight",
}


@pytest.mark.parametrize("key", PROCESSORS)
def test_attention_processors_of_old_diffusers(key: str, tmp_path: Path) -> None:
    target = PROCESSORS[key]
    width = 64 if CLIP in target else 32
    path = tmp_path / "a.safetensors"
    save_file({f"{key}.up.weight": random(width, 2), f"{key}.down.weight": random(2, width)}, path)
    with open_adapter(path) as adapter:
        assert list(match([adapter], SMALL).updates) == [target]


def linear(modules: Iterable[tuple[str, Any]]) -> list[str]:
    """Names of the modules that every LoRA of sd-scripts adapts, within attention blocks."""
    blocks = ("attentions", "self_attn", "mlp")
    return [name for name, module in modules if type(module).__name__ == "Linear" and _any(blocks, name)]


def _any(parts: tuple[str, ...], name: str) -> bool:
    return any(part in name for part in parts)


SD1 = UNetConfig(MODEL, 4, 4, 320, (1, 2, 4, 4), 2, (1, 1, 1, 0), 1, 768, 8, None, False)
SD2 = replace(SD1, context_channels=1024, heads=None, head_channels=64, linear_projection=True)
SDXL = UNetConfig(MODEL, 4, 4, 320, (1, 2, 4), 2, (0, 2, 10), 10, 2048, None, 64, True)
CLIP_L = TextEncoderConfig("te.", 768, 12, 12, 3072, "quick_gelu", 49408, 77)
CLIP_H = TextEncoderConfig("cond_stage_model.model.", 1024, 23, 16, 4096, "gelu", 49408, 77)
CLIP_G = TextEncoderConfig("conditioner.embedders.1.model.", 1280, 32, 20, 5120, "gelu", 49408, 77)

ATTENTION = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
PLAIN = "DownBlock2D", "UpBlock2D"
DIFFUSERS: dict[str, tuple[UNetConfig, dict[str, Any], int]] = {
    "SD 1": (SD1, {"cross_attention_dim": 768, "use_linear_projection": False}, 192),
    "SD 2": (SD2, {"cross_attention_dim": 1024, "use_linear_projection": True}, 192),
    "SDXL": (
        SDXL,
        {
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": (PLAIN[0], ATTENTION[0], ATTENTION[0]),
            "up_block_types": (ATTENTION[1], ATTENTION[1], PLAIN[1]),
            "transformer_layers_per_block": (1, 2, 10),
        },
        722,
    ),
}


@pytest.mark.parametrize("family", DIFFUSERS)
def test_every_layer_of_diffusers_unet_has_a_weight_of_its_shape(family: str) -> None:
    config, options, count = DIFFUSERS[family]
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(**options)  # type: ignore[no-untyped-call]
    table = alias_table([(UNET, unet_targets(MODEL, unet_layers(config)))])
    names = linear(unet.named_modules())
    layers = [(name, module) for name, module in unet.named_modules() if hasattr(module, "weight")]
    for name, module in layers:
        target = table[f"lora_unet_{name.replace('.', '_')}"]
        assert table[f"unet.{name}"] == target
        assert target.shape == tuple(module.weight.shape)
        assert (target.bias is None) == (module.bias is None)
    assert len({table[f"unet.{name}"].weight for name, _ in layers}) == len(layers)
    projections = 0 if config.linear_projection else 32
    assert len(names) + projections == count


def clip(config: TextEncoderConfig, projection: bool) -> Any:
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    with torch.device("meta"):
        return kind(
            CLIPTextConfig(
                hidden_size=config.width,
                intermediate_size=config.mlp_width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                projection_dim=config.width,
            )
        )


def test_every_layer_of_both_text_encoders_of_sdxl() -> None:
    table = alias_table(
        [
            (UNET, unet_targets(MODEL, unet_layers(SDXL))),
            (FIRST_OF_TWO, text_targets(CLIP_L.prefix, text_layers(CLIP_L))),
            (SECOND_OF_TWO, open_clip_targets(CLIP_G.prefix, text_layers(CLIP_G), (1280, 1280))),
        ]
    )
    for config, tag, projection, count in ((CLIP_L, "te1", False, 72), (CLIP_G, "te2", True, 192)):
        names = [name for name, m in clip(config, projection).named_modules() if hasattr(m, "weight")]
        targets = [table[f"lora_{tag}_{name.replace('.', '_')}"] for name in names]
        assert len(set(targets)) == len(names)
        assert len(linear(clip(config, projection).named_modules())) == count
        assert all(target.weight.startswith(config.prefix) for target in targets)


TINY = TextEncoderConfig("open.", 6, 2, 1, 24, "gelu", 11, 5)


def open_clip_tensors() -> dict[str, Array]:
    """Some of what an OpenCLIP text encoder of this size stores."""
    block = "open.transformer.resblocks.1"
    return {
        f"{block}.attn.in_proj_weight": random(18, 6, seed=1),
        f"{block}.attn.in_proj_bias": random(18, seed=2),
        f"{block}.mlp.c_fc.weight": random(24, 6, seed=3),
        "open.text_projection": random(6, 7, seed=4),
        "open.token_embedding.weight": random(11, 6, seed=5),
        "open.ln_final.weight": random(6, seed=6),
    }


def test_open_clip(tmp_path: Path) -> None:
    """Query and value change their rows only; text_projection is stored turned."""
    table = alias_table([(TEXT, open_clip_targets("open.", text_layers(TINY), (7, 6)))])
    layer, stored = "text_encoder.text_model.encoder.layers.1", open_clip_tensors()
    file = {
        f"{layer}.self_attn.{name}_proj.{suffix}": random(*shape, seed=ord(name))
        for name in "qv"
        for suffix, shape in (("lora_B.weight", (6, 2)), ("lora_A.weight", (2, 6)), ("diff_b", (6,)))
    }
    file[f"{layer}.mlp.fc1.diff"] = random(24, 6, seed=7)
    file["text_encoder.text_projection.lora_B.weight"] = random(7, 2, seed=8)
    file["text_encoder.text_projection.lora_A.weight"] = random(2, 6, seed=8)
    file["text_encoder.text_model.final_layer_norm.w_norm"] = random(6, seed=9)
    file["text_encoder.text_model.embeddings.token_embedding.diff"] = random(11, 6, seed=10)
    save_file(file, tmp_path / "a.safetensors")
    expected = {name: value.astype(np.float64) for name, value in stored.items()}
    for name, rows in (("q", slice(0, 6)), ("v", slice(12, 18))):
        up, down = (file[f"{layer}.self_attn.{name}_proj.lora_{half}.weight"] for half in "BA")
        expected["open.transformer.resblocks.1.attn.in_proj_weight"][rows] += up.astype(np.float64) @ down
        bias = file[f"{layer}.self_attn.{name}_proj.diff_b"]
        expected["open.transformer.resblocks.1.attn.in_proj_bias"][rows] += bias
    expected["open.transformer.resblocks.1.mlp.c_fc.weight"] += file[f"{layer}.mlp.fc1.diff"]
    halves = (file[f"text_encoder.text_projection.lora_{half}.weight"] for half in "BA")
    expected["open.text_projection"] += np.matmul(*(h.astype(np.float64) for h in halves)).T
    expected["open.ln_final.weight"] += random(6, seed=9)
    expected["open.token_embedding.weight"] += random(11, 6, seed=10)
    with open_adapter(tmp_path / "a.safetensors") as adapter:
        plan = match_aliases([adapter], table, 1024)
        assert set(plan.updates) == set(stored)
        source = WeightSource(Tensors(stored), [adapter])
        for name, updates in plan.updates.items():
            node = weight(name, stored[name].shape)
            for update in updates:
                node = update(node)
            assert error(evaluate(node, source.read_weight), expected[name]) < BOUND, name


def test_rows_of_a_weight_stored_in_f16(tmp_path: Path) -> None:
    table = alias_table([(TEXT, open_clip_targets("open.", text_layers(TINY)))])
    name, stored = "open.transformer.resblocks.0.attn.in_proj_weight", random(18, 6).astype(np.float16)
    save_file({"lora_te_text_model_encoder_layers_0_self_attn_k_proj.diff": random(6, 6)}, tmp_path / "a")
    with open_adapter(tmp_path / "a") as adapter:
        (update,) = match_aliases([adapter], table, 1024).updates[name]
        node = update(weight(name, (18, 6), dtype="f16"))
        found = evaluate(node, WeightSource(Tensors({name: stored}), [adapter]).read_weight)
    expected = stored.astype(np.float64)
    expected[6:12] += random(6, 6)
    assert error(found, expected) < BOUND


def test_names_of_the_whole_table_are_of_one_module_each() -> None:
    config: ModelConfig = SMALL
    layers = [*unet_layers(config.unet), *text_layers(config.text)]
    assert len({target.weight for target in module_aliases(config).values()}) == len(layers)
