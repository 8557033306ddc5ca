"""Files that LyCORIS, PEFT and diffusers write for models of every family's structure, at toy width.

The model's own modules, merged by the trainer, are laid out as a checkpoint of the family stores them: LDM's
UNet, and text encoders in transformers' or OpenCLIP's layout, with fused query, key and value and a turned
text_projection. Every tensor that changes must be as the plan makes it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from lycoris.kohya import create_network
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdcomp.frontend.adapters import open_adapter
from sdcomp.frontend.adapters.aliases import (
    FIRST_OF_TWO,
    SECOND_OF_TWO,
    TEXT,
    UNET,
    Target,
    alias_table,
    text_targets,
    unet_targets,
)
from sdcomp.frontend.adapters.match import match_aliases
from sdcomp.frontend.adapters.openclip import open_clip_targets
from sdcomp.frontend.config import TextEncoderConfig, UNetConfig
from sdcomp.frontend.names import text_layers, unet_layers
from sdcomp.frontend.weights import WeightSource
from sdcomp.ir.interpret import evaluate
from sdcomp.passes.fold_kronecker import FoldKronecker
from tests.frontend.adapter_case import BOUND, Tensors
from tests.passes.graphs import Array, error, module, weight

WIDTH, CONTEXT, LAYERS = 32, 48, 2
PREFIX = "model.diffusion_model."
PRESET = """
unet_target_module = ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"]
unet_target_name = ["conv_in"]
text_encoder_target_module = ["CLIPAttention", "CLIPMLP"]
text_encoder_target_name = ["text_projection"]
"""


def text_config(prefix: str, width: int) -> TextEncoderConfig:
    return TextEncoderConfig(prefix, width, LAYERS, 2, 2 * width, "gelu", 99, 77)


def text_encoder(width: int, projection: int | None = None) -> Any:
    kind = CLIPTextModel if projection is None else CLIPTextModelWithProjection
    return kind(
        CLIPTextConfig(
            vocab_size=99,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            projection_dim=projection or width,
        )
    )


def unet_config(depths: tuple[int, ...], middle: int, linear: bool) -> UNetConfig:
    heads, per_head = (None, 16) if linear else (2, None)
    mult = (1, 2, 4)[: len(depths)]
    return UNetConfig(PREFIX, 4, 4, WIDTH, mult, 2, depths, middle, CONTEXT, heads, per_head, linear)


def unet(config: UNetConfig) -> Any:
    attended = [depth > 0 for depth in config.transformer_depth]
    return UNet2DConditionModel(  # type: ignore[no-untyped-call]
        sample_size=8,
        block_out_channels=[WIDTH * factor for factor in config.channel_mult],
        layers_per_block=2,
        down_block_types=["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attended],
        up_block_types=["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attended)],
        transformer_layers_per_block=[max(depth, 1) for depth in config.transformer_depth],
        cross_attention_dim=CONTEXT,
        attention_head_dim=2,
        use_linear_projection=config.linear_projection,
    )


@dataclass(frozen=True)
class Family:
    """Its networks by their names in diffusers, and the table of all names of their modules."""

    networks: Mapping[str, Any]
    aliases: Mapping[str, Target]

    @property
    def text_encoders(self) -> list[Any]:
        return [network for name, network in self.networks.items() if name != "unet"]


def sd1() -> Family:
    config, text = unet_config((1, 1), 1, linear=False), text_config("cond_stage_model.transformer.", CONTEXT)
    table = [
        (UNET, unet_targets(PREFIX, unet_layers(config))),
        (TEXT, text_targets(text.prefix, text_layers(text))),
    ]
    return Family({"unet": unet(config), "text_encoder": text_encoder(CONTEXT)}, alias_table(table))


def sd2() -> Family:
    """Linear projections, and OpenCLIP's text encoder."""
    config, text = unet_config((1, 1), 1, linear=True), text_config("cond_stage_model.model.", CONTEXT)
    table = [
        (UNET, unet_targets(PREFIX, unet_layers(config))),
        (TEXT, open_clip_targets(text.prefix, text_layers(text))),
    ]
    return Family({"unet": unet(config), "text_encoder": text_encoder(CONTEXT)}, alias_table(table))


def sdxl() -> Family:
    """No attention at the finest level, transformers of several blocks, two text encoders."""
    config = unet_config((0, 2, 3), 3, linear=True)
    first = text_config("conditioner.embedders.0.transformer.", 16)
    second, projection = text_config("conditioner.embedders.1.model.", CONTEXT), (24, CONTEXT)
    table = [
        (UNET, unet_targets(PREFIX, unet_layers(config))),
        (FIRST_OF_TWO, text_targets(first.prefix, text_layers(first))),
        (SECOND_OF_TWO, open_clip_targets(second.prefix, text_layers(second), projection)),
    ]
    networks = {
        "unet": unet(config),
        "text_encoder": text_encoder(16),
        "text_encoder_2": text_encoder(CONTEXT, projection[0]),
    }
    return Family(networks, alias_table(table))


FAMILIES: dict[str, Callable[[], Family]] = {"SD 1": sd1, "SD 2": sd2, "SDXL": sdxl}


def stored(family: Family, values: Mapping[str, torch.Tensor]) -> dict[str, Array]:
    """Weights and biases by their modules' dotted diffusers names, as the family's checkpoints store them."""
    tensors: dict[str, Array] = {}
    for key, value in values.items():
        path, _, kind = key.rpartition(".")
        target = family.aliases.get(path)
        if target is None:
            continue
        array = value.detach().numpy()
        name = target.weight if kind == "weight" else str(target.bias)
        if target.rows is not None:
            start, stop = target.rows
            whole = tensors.setdefault(name, np.zeros((3 * len(array), *array.shape[1:]), np.float32))
            whole[start:stop] = array
        else:
            tensors[name] = array.T if target.turned else array
    return tensors


def parameters(family: Family) -> dict[str, torch.Tensor]:
    """Every parameter by component and name, as it is now."""
    return {
        f"{component}.{name}": value.detach().clone()
        for component, network in family.networks.items()
        for name, value in network.named_parameters()
    }


def check(
    path: Path, family: Family, before: dict[str, Array], after: dict[str, Array], least: int
) -> set[str]:
    """Exactly what the trainer changed is changed, to the same values; returns the names of it."""
    expected = {name for name in before if not np.array_equal(before[name], after[name])}
    with open_adapter(path) as adapter:
        plan = match_aliases([adapter], family.aliases, CONTEXT)
        assert plan.warnings == ()
        assert set(plan.updates) == expected
        assert len(expected) > least
        source = WeightSource(Tensors(before), [adapter])
        for name, updates in plan.updates.items():
            node = weight(name, before[name].shape)
            for update in updates:
                node = update(node)
            node = FoldKronecker().apply(module(w=node)).graphs[0].outputs["w"]
            found = evaluate(node, source.read_weight)
            assert error(found, after[name].astype(np.float64)) < BOUND, name
    return expected


OPEN_CLIP = "conditioner.embedders.1.model."
SDXL_TEXT = {
    "conditioner.embedders.0.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight",
    f"{OPEN_CLIP}transformer.resblocks.1.attn.in_proj_weight",
    f"{OPEN_CLIP}transformer.resblocks.1.mlp.c_fc.weight",
    f"{OPEN_CLIP}text_projection",
}
"""Weights of both text encoders, with the layouts of either."""


LYCORIS: dict[str, dict[str, Any]] = {
    "LoKr": {"algo": "lokr", "factor": 4, "use_tucker": True},
    "LoKr, both split": {"algo": "lokr", "factor": 8, "decompose_both": True, "network_dim": 1},
    "LoKr with DoRA": {"algo": "lokr", "factor": 4, "dora_wd": True},
    "LoCon": {"algo": "lora"},
    "LoHa": {"algo": "loha", "use_tucker": True},
    "GLoRA": {"algo": "glora"},
    "diag-OFT": {"algo": "diag-oft"},
    "(IA)3": {"algo": "ia3"},
}
"""alpha is the rank: LyCORIS multiplies some merged differences by alpha / rank twice."""


@pytest.mark.parametrize("case", LYCORIS)
@pytest.mark.parametrize("name", FAMILIES)
def test_lycoris(name: str, case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    family = FAMILIES[name]()
    preset = tmp_path / "preset.toml"
    preset.write_text(PRESET)
    settings = {"network_dim": 2, "preset": str(preset), **LYCORIS[case]}
    dim = settings.pop("network_dim")
    before = parameters(family)
    modules = {id(m): f"{c}.{n}" for c, net in family.networks.items() for n, m in net.named_modules()}
    network: Any = create_network(
        1.0, dim, dim, None, family.text_encoders, family.networks["unet"],
        conv_dim=dim, conv_alpha=dim, **settings,
    )  # fmt: skip
    network.apply_to(None, None, True, True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.2)
    path = tmp_path / "adapter.safetensors"
    network.save_weights(str(path), torch.float32, {"ss_network_dim": str(dim)})
    after = dict(before)
    for lora in network.loras:
        key = modules[id(lora.org_module[0])]
        merged, _ = lora.get_merged_weight(shape=before[f"{key}.weight"].shape)
        after[f"{key}.weight"] = merged.reshape(before[f"{key}.weight"].shape)
    changed = check(path, family, stored(family, before), stored(family, after), least=60)
    assert name != "SDXL" or changed >= SDXL_TEXT


LINEAR = ["to_q", "to_v", "to_out.0", "ff.net.2", "proj_in", "conv1", "add_k_proj"]
TEXT_LINEAR = ["q_proj", "v_proj", "out_proj", "fc1", "text_projection"]


def wrapped(family: Family, component: str, config: Any) -> Any:
    """The component under PEFT, its adapter trained to something."""
    model: Any = peft.get_peft_model(family.networks[component], config)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.requires_grad and "magnitude" not in parameter_name:
                parameter.normal_(std=0.2)
    return model


PEFT: dict[str, Callable[[list[str]], Any]] = {
    "LoRA": lambda targets: peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets),
    "LoKr": lambda targets: peft.LoKrConfig(r=2, alpha=6, target_modules=targets, decompose_both=True),
    "LoHa": lambda targets: peft.LoHaConfig(r=4, alpha=6, target_modules=targets, init_weights=False),
}


@pytest.mark.parametrize("case", PEFT)
@pytest.mark.parametrize("component", ["unet", "text_encoder"])
@pytest.mark.parametrize("name", ["SD 1", "SD 2"])
def test_peft(name: str, component: str, case: str, tmp_path: Path) -> None:
    """`save_pretrained` of one component: names without it, and adapter_config.json beside the file."""
    torch.manual_seed(0)
    family = FAMILIES[name]()
    before = parameters(family)
    model = wrapped(family, component, PEFT[case](LINEAR if component == "unet" else TEXT_LINEAR))
    model.save_pretrained(tmp_path)
    after = before | {
        f"{component}.{key}": value for key, value in model.merge_and_unload().named_parameters()
    }
    path = tmp_path / "adapter_model.safetensors"
    check(path, family, stored(family, before), stored(family, after), least=3)


def test_sdxl_that_diffusers_writes(tmp_path: Path) -> None:
    """One file for the UNet and both text encoders, with each component's configuration in its metadata."""
    torch.manual_seed(0)
    family = sdxl()
    before, after, layers, configs = parameters(family), {}, {}, {}
    for index, component in enumerate(family.networks):
        targets = LINEAR if component == "unet" else TEXT_LINEAR
        config = peft.LoraConfig(r=4, lora_alpha=6 + index, target_modules=targets)
        model = wrapped(family, component, config)
        layers[component] = peft.get_peft_model_state_dict(model)
        layers[component] = {k.removeprefix("base_model.model."): v for k, v in layers[component].items()}
        configs[component] = config.to_dict()
        merged = model.merge_and_unload()
        after |= {f"{component}.{key}": value for key, value in merged.named_parameters()}
    StableDiffusionXLLoraLoaderMixin.save_lora_weights(
        str(tmp_path),
        unet_lora_layers=layers["unet"],
        text_encoder_lora_layers=layers["text_encoder"],
        text_encoder_2_lora_layers=layers["text_encoder_2"],
        **{f"{component}_lora_adapter_metadata": json.loads(json.dumps(config, default=list))
           for component, config in configs.items()},
    )  # fmt: skip
    path = tmp_path / "pytorch_lora_weights.safetensors"
    changed = check(path, family, stored(family, before), stored(family, after), least=60)
    assert changed >= SDXL_TEXT
    with open_adapter(path) as adapter:
        components = {group.module.partition(".")[0] for group in adapter.groups}
    assert components == {"unet", "text_encoder", "text_encoder_2"}
