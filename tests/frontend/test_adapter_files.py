"""Files that LyCORIS and PEFT write, of every algorithm, against the weights that they merge themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from lycoris.kohya import create_network
from safetensors.numpy import load_file, save_file

from sdcomp.frontend.adapters import match, open_adapter
from sdcomp.frontend.adapters.aliases import Target, module_aliases
from sdcomp.frontend.weights import WeightSource
from sdcomp.ir.interpret import evaluate
from sdcomp.passes.fold_kronecker import FoldKronecker
from tests.checkpoints import SMALL
from tests.frontend.adapter_case import BOUND, Tensors, random
from tests.frontend.test_adapters import randomise, small_text_encoder, small_unet
from tests.passes.graphs import Array, error, module, weight

PRESET = """
unet_target_module = ["Transformer2DModel", "Downsample2D"]
text_encoder_target_module = ["CLIPMLP"]
"""

Pairs = dict[str, tuple[Array, Array]]
"""Names of tensors, their values before and after."""

LYCORIS: dict[str, dict[str, Any]] = {
    "LoCon": {"algo": "lora"},
    "LoCon, Tucker": {"algo": "lora", "use_tucker": True},
    "LoCon, rs_lora": {"algo": "lora", "rs_lora": True},
    "LoCon with DoRA per output": {"algo": "lora", "dora_wd": True, "wd_on_output": True},
    "LoCon with DoRA per input": {"algo": "lora", "dora_wd": True, "wd_on_output": False},
    "LoHa": {"algo": "loha"},
    "LoHa, Tucker, with DoRA": {"algo": "loha", "use_tucker": True, "dora_wd": True},
    "LoKr with DoRA": {"algo": "lokr", "factor": 4, "dora_wd": True},
    "GLoRA": {"algo": "glora"},
    "full, norms": {"algo": "full", "train_norm": True},
    "(IA)3": {"algo": "ia3"},
    "diag-OFT": {"algo": "diag-oft"},
    "diag-OFT, constrained": {"algo": "diag-oft", "constraint": 0.01},
    "BOFT": {"algo": "boft", "rescaled": True},
    "diag-OFT, rescaled": {"algo": "diag-oft", "rescaled": True},
}
"""alpha is the rank, so that it does not matter that LyCORIS multiplies some differences by gamma twice."""


def lycoris_pairs(options: dict[str, Any], folder: Path) -> Pairs:
    """Writes `folder`/adapter.safetensors."""
    preset = folder / "preset.toml"
    preset.write_text(PRESET)
    settings = {"conv_dim": 4, "conv_alpha": 4, "preset": str(preset), **options}
    network: Any = create_network(1.0, 4, 4, None, small_text_encoder(), small_unet(), **settings)
    before = {lora.lora_name: _parameters(lora.org_module[0]) for lora in network.loras}
    network.apply_to(None, None, True, True)
    randomise(network, 0.1)
    network.save_weights(str(folder / "adapter.safetensors"), torch.float32, {"ss_network_dim": "4"})
    aliases, pairs = module_aliases(SMALL), {}
    for lora in network.loras:
        is_full = type(lora).__name__ == "FullModule"
        shape = before[lora.lora_name]["weight"].shape
        after = (lora.weight, lora.bias) if is_full else lora.get_merged_weight(shape=shape)
        names = _names(aliases[lora.lora_name])
        for name, kind, value in zip(names, ("weight", "bias"), after, strict=True):
            if value is not None:
                pairs[name] = (before[lora.lora_name][kind].numpy(), value.detach().numpy())
    return pairs


def _parameters(layer: Any) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in layer.named_parameters()}


def _names(target: Target) -> tuple[str, str]:
    return target.weight, str(target.bias)


def check(folder: Path, name: str, pairs: Pairs) -> None:
    """Every tensor that the plan changes is as expected, and no other was expected to change."""
    source_tensors = Tensors({name: before for name, (before, _) in pairs.items()})
    with open_adapter(folder / name) as adapter:
        plan = match([adapter], SMALL)
        assert set(plan.updates) == set(pairs)
        assert plan.warnings == ()
        source = WeightSource(source_tensors, [adapter])
        for changed, updates in plan.updates.items():
            before, after = pairs[changed]
            (update,) = updates
            folded = FoldKronecker().apply(module(w=update(weight(changed, before.shape))))
            found = evaluate(folded.graphs[0].outputs["w"], source.read_weight)
            assert error(found, after.reshape(before.shape).astype(np.float64)) < BOUND, changed


@pytest.mark.parametrize("case", LYCORIS)
def test_lycoris(case: str, tmp_path: Path) -> None:
    pairs = lycoris_pairs(LYCORIS[case], tmp_path)
    assert len(pairs) > 20
    check(tmp_path, "adapter.safetensors", pairs)


def test_dylora_that_lycoris_writes(tmp_path: Path) -> None:
    """Its modules scale by the blocks trained last; what they save is a plain LoRA."""
    preset = tmp_path / "preset.toml"
    preset.write_text(PRESET)
    settings = {"algo": "dylora", "block_size": 1, "conv_dim": 4, "conv_alpha": 1, "preset": str(preset)}
    network: Any = create_network(1.0, 4, 1, None, small_text_encoder(), small_unet(), **settings)
    network.apply_to(None, None, True, True)
    randomise(network)
    network.save_weights(str(tmp_path / "adapter.safetensors"), torch.float32, {})
    file, pairs = load_file(tmp_path / "adapter.safetensors"), {}
    for name, target in module_aliases(SMALL).items():
        if f"{name}.lora_up.weight" in file:
            up, down = (file[f"{name}.lora_{half}.weight"].astype(np.float64) for half in ("up", "down"))
            delta = 0.25 * up.reshape(len(up), -1) @ down.reshape(len(down), -1)
            before = random(*target.shape)
            pairs[target.weight] = before, before + delta.reshape(target.shape)
    assert len(pairs) > 20
    check(tmp_path, "adapter.safetensors", pairs)


LINEAR, ALL = ["to_q", "to_v", "ff.net.2"], ["to_q", "ff.net.2", "proj_in", "conv1"]
PEFT: dict[str, Any] = {
    "LoRA": peft.LoraConfig(r=4, lora_alpha=6, target_modules=ALL),
    "LoRA, patterns": peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=ALL, rank_pattern={"to_q": 2}, alpha_pattern={"conv1": 3}
    ),
    "LoRA, rs_lora": peft.LoraConfig(r=4, lora_alpha=6, target_modules=ALL, use_rslora=True),
    "LoRA with DoRA": peft.LoraConfig(r=4, lora_alpha=6, target_modules=ALL, use_dora=True),
    "LoRA with bias": peft.LoraConfig(r=4, lora_alpha=6, target_modules=["ff.net.2"], lora_bias=True),
    "LoHa": peft.LoHaConfig(r=4, alpha=6, target_modules=ALL, init_weights=False),
    "LoHa, Tucker": peft.LoHaConfig(r=4, alpha=6, target_modules=ALL, use_effective_conv2d=True),
    "LoKr, both whole": peft.LoKrConfig(r=16, alpha=6, target_modules=LINEAR, decompose_factor=4),
    "LoKr, low rank": peft.LoKrConfig(r=2, alpha=6, target_modules=ALL, decompose_both=True),
    "LoKr, Tucker": peft.LoKrConfig(r=2, alpha=6, target_modules=ALL, use_effective_conv2d=True),
    "(IA)3": peft.IA3Config(target_modules=ALL, feedforward_modules=["ff.net.2", "conv1"]),
    "OFT": peft.OFTConfig(r=0, oft_block_size=8, target_modules=ALL),
    "BOFT": peft.BOFTConfig(boft_block_size=4, target_modules=ALL),
}


def peft_pairs(config: Any, folder: Path) -> Pairs:
    """Writes `folder`/adapter_model.safetensors and adapter_config.json."""
    unet = small_unet()
    before = {name: value.detach().clone() for name, value in unet.named_parameters()}
    model: Any = peft.get_peft_model(unet, config)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "magnitude" not in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    merged = dict(model.merge_and_unload().named_parameters())
    aliases, pairs = module_aliases(SMALL), {}
    for name, value in before.items():
        path, _, kind = name.rpartition(".")
        if not torch.equal(value, merged[name]):
            target = aliases[f"unet.{path}"]
            stored = target.weight if kind == "weight" else str(target.bias)
            pairs[stored] = value.numpy(), merged[name].detach().numpy()
    return pairs


@pytest.mark.parametrize("case", PEFT)
def test_peft(case: str, tmp_path: Path) -> None:
    pairs = peft_pairs(PEFT[case], tmp_path)
    assert len(pairs) > 8
    check(tmp_path, "adapter_model.safetensors", pairs)


QUERY = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
ORDER_DEPENDENT: dict[str, dict[str, Array]] = {
    "diag-OFT": {"oft_blocks": random(4, 8, 8)},
    "(IA)3": {"weight": random(32), "on_input": np.array(0)},
    "GLoRA": {
        **{"a1.weight": random(32, 2, seed=6), "a2.weight": random(2, 32, seed=6)},
        **{"b1.weight": random(32, 2, seed=7), "b2.weight": random(2, 32, seed=7)},
    },
    "DoRA": {
        **{"lora_up.weight": random(32, 2, seed=5), "lora_down.weight": random(2, 32, seed=5)},
        "dora_scale": np.abs(random(32, 1)),
    },
}


@pytest.mark.parametrize("kind", ORDER_DEPENDENT)
def test_order_dependent_kinds_change_what_earlier_adapters_left(kind: str, tmp_path: Path) -> None:
    """Applied after another adapter, the effect is that on a checkpoint which already holds the other."""
    other, before = {"diff": random(32, 32, seed=2)}, random(32, 32, seed=1)
    paths = []
    for index, tensors in enumerate((other, ORDER_DEPENDENT[kind])):
        paths.append(tmp_path / f"{index}.safetensors")
        save_file({f"{QUERY}.{suffix}": np.ascontiguousarray(v) for suffix, v in tensors.items()}, paths[-1])
    stacked = _applied(paths, before)
    assert error(stacked, _applied(paths[1:], before + other["diff"])) < BOUND
    assert error(stacked, _applied(paths[::-1], before)) > 1e-3


def _applied(paths: list[Path], before: Array) -> Array:
    adapters = [open_adapter(path) for path in paths]
    name = module_aliases(SMALL)[QUERY].weight
    node = weight(name, before.shape)
    for update in match(adapters, SMALL).updates[name]:
        node = update(node)
    folded = FoldKronecker().apply(module(w=node)).graphs[0].outputs["w"]
    value = evaluate(folded, WeightSource(Tensors({name: before}), adapters).read_weight)
    for adapter in adapters:
        adapter.close()
    return value
