"""Adapters from file to plan: files that LyCORIS writes, every naming, stacking, strengths."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from lycoris import create_lycoris
from lycoris.kohya import create_network
from safetensors.numpy import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from sdcomp.frontend.adapters import match, open_adapter
from sdcomp.frontend.adapters.aliases import module_aliases
from sdcomp.frontend.family import expected_tensors
from sdcomp.frontend.lower import lower_model
from sdcomp.frontend.weights import WeightSource
from sdcomp.ir.compare import equal
from sdcomp.ir.graph import Module, Node
from sdcomp.ir.interpret import evaluate
from sdcomp.ir.types import TensorType
from sdcomp.passes.apply_adapters import AdapterPlan, ApplyAdapters
from sdcomp.passes.fold_kronecker import FoldKronecker
from tests.checkpoints import SMALL, random_tensors
from tests.passes.graphs import Array, error, weight

BOUND = 1e-6
UNET_QUERY = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
QUERY = f"model.diffusion_model.{UNET_QUERY}.weight"
TEXT_QUERY = "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"


class Tensors:
    """A checkpoint in memory."""

    def __init__(self, tensors: dict[str, Array]) -> None:
        self._tensors = tensors

    def read(self, name: str) -> Array:
        return self._tensors[name]


@pytest.fixture(scope="module")
def tensors() -> dict[str, Array]:
    return random_tensors(SMALL, "f32")


def lower() -> Module:
    types = {name: TensorType(shape) for name, shape in expected_tensors(SMALL).items()}
    return lower_model(SMALL, types, [(16, 16)], batches=(1,))


def adapted(plan: AdapterPlan, source: WeightSource) -> dict[str, Array]:
    """The value of every targeted weight."""
    shapes = expected_tensors(SMALL)
    values = {}
    for name, updates in plan.updates.items():
        node = weight(name, shapes[name])
        for update in updates:
            node = update(node)
        values[name] = evaluate(node, source.read_weight)
    return values


def small_unet() -> Any:
    return UNet2DConditionModel(  # type: ignore[no-untyped-call]
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=64,
        attention_head_dim=8,
    )


def small_text_encoder() -> Any:
    config = CLIPTextConfig(
        vocab_size=99, hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=1
    )
    return CLIPTextModel(config)


def randomise(network: Any, deviation: float = 1.0) -> None:
    """Trainers start with a zero factor; a trained adapter has none."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=deviation)


def written_deltas(network: Any) -> Iterator[tuple[str, Array]]:
    for module in network.loras:
        yield module.lora_name, module.get_weight(module.org_module[0].weight.shape).detach().numpy()


PRESET = """
unet_target_module = ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"]
unet_target_name = ["conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"]
text_encoder_target_module = ["CLIPAttention", "CLIPMLP"]
"""
"""LyCORIS 3's default; that of 4.1 names the time embedding twice and is refused by LyCORIS itself."""

OPTIONS: dict[str, dict[str, Any]] = {
    "factor 4": {"factor": 4},
    "most square factors": {"factor": -1, "network_dim": 2},
    "Tucker": {"factor": 4, "network_dim": 2, "use_tucker": True},
    "decompose both": {"factor": 8, "network_dim": 1, "decompose_both": True},
    "full matrices": {"factor": 4, "network_dim": 4, "full_matrix": True},
    "unbalanced": {"factor": 4, "unbalanced_factorization": True},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_file_that_lycoris_writes_for_kohya(options: str, tensors: dict[str, Array], tmp_path: Path) -> None:
    preset = tmp_path / "preset.toml"
    preset.write_text(PRESET)
    settings = {"network_dim": 3, "algo": "lokr", "conv_dim": 2, "preset": str(preset), **OPTIONS[options]}
    dim = settings.pop("network_dim")
    network = create_network(1.0, dim, 0.7, None, small_text_encoder(), small_unet(), **settings)
    network.apply_to(None, None, True, True)
    randomise(network)
    path = tmp_path / "lokr.safetensors"
    network.save_weights(str(path), torch.float32, {"ss_network_dim": "3"})
    with open_adapter(path, 0.5, 2.0) as adapter:
        plan = match([adapter], SMALL)
        found = adapted(plan, WeightSource(Tensors(tensors), [adapter]))
    deltas = dict(written_deltas(network))
    aliases = module_aliases(SMALL)
    assert len(found) == len(deltas) > 100
    for module, delta in deltas.items():
        target = aliases[module]
        strength = 2.0 if module.startswith("lora_te_") else 0.5
        expected = tensors[target.weight] + np.float64(strength) * delta.reshape(target.shape)
        assert error(found[target.weight], expected) < BOUND, module


def test_file_that_lycoris_writes_for_any_module(tensors: dict[str, Array], tmp_path: Path) -> None:
    network = create_lycoris(small_unet(), 1.0, linear_dim=4, linear_alpha=2.0, algo="lokr", factor=4)
    network.apply_to()
    randomise(network)
    path = tmp_path / "lokr.safetensors"
    network.save_weights(str(path), torch.float16, {})
    with open_adapter(path) as adapter:
        plan = match([adapter], SMALL)
    assert all(group.module.startswith("lycoris_") for group in adapter.groups)
    assert len(plan.updates) == len(adapter.groups) > 100


def _lokr(
    module: str, seed: int = 0, first: tuple[int, int] = (4, 4), second: tuple[int, int] = (8, 8)
) -> Any:
    generator = np.random.default_rng(seed)
    return {
        f"{module}.lokr_w1": generator.standard_normal(first, dtype=np.float32),
        f"{module}.lokr_w2": generator.standard_normal(second, dtype=np.float32),
    }


def _delta(tensors: dict[str, Array], module: str) -> Array:
    return np.kron(tensors[f"{module}.lokr_w1"].astype(np.float64), tensors[f"{module}.lokr_w2"])


DIFFUSERS_QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
NAMES = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": QUERY,
    "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q": QUERY,
    "lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": QUERY,
    f"unet.{DIFFUSERS_QUERY}": QUERY,
    DIFFUSERS_QUERY: QUERY,
    f"diffusion_model.{UNET_QUERY}": QUERY,
    f"model.diffusion_model.{UNET_QUERY}": QUERY,
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": TEXT_QUERY,
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": TEXT_QUERY,
    "lora_te_encoder_layers_0_self_attn_q_proj": TEXT_QUERY,
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": TEXT_QUERY,
    "text_encoder.encoder.layers.0.self_attn.q_proj": TEXT_QUERY,
    "clip_l.text_model.encoder.layers.0.self_attn.q_proj": TEXT_QUERY,
    "lora_unet_time_embedding_linear_1": "model.diffusion_model.time_embed.0.weight",
    "lora_unet_conv_in": "model.diffusion_model.input_blocks.0.0.weight",
    "lora_unet_down_blocks_0_downsamplers_0_conv": "model.diffusion_model.input_blocks.3.0.op.weight",
    "lora_unet_mid_block_resnets_1_conv2": "model.diffusion_model.middle_block.2.out_layers.3.weight",
    "lora_unet_up_blocks_0_upsamplers_0_conv": "model.diffusion_model.output_blocks.2.2.conv.weight",
    "lora_unet_up_blocks_1_resnets_2_norm1": "model.diffusion_model.output_blocks.5.0.in_layers.0.weight",
    "lora_unet_conv_out": "model.diffusion_model.out.2.weight",
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str) -> None:
    assert module_aliases(SMALL)[name].weight == NAMES[name]


def test_every_weight_of_unet_and_text_encoder_can_be_a_target() -> None:
    targets = {target.weight: target.shape for target in module_aliases(SMALL).values()}
    expected = {
        name: shape
        for name, shape in expected_tensors(SMALL).items()
        if name.endswith(".weight") and not name.startswith("first_stage_model.")
    }
    assert targets == expected


def test_adapters_stack_in_order(tensors: dict[str, Array], tmp_path: Path) -> None:
    module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    files = [_lokr(module, seed) for seed in (1, 2)]
    for index, file in enumerate(files):
        save_file(file, tmp_path / f"{index}.safetensors")
    with (
        open_adapter(tmp_path / "0.safetensors", 0.5) as first,
        open_adapter(tmp_path / "1.safetensors", -1) as second,
    ):
        plan = match([first, second], SMALL)
        found = adapted(plan, WeightSource(Tensors(tensors), [first, second]))
    expected = tensors[QUERY] + 0.5 * _delta(files[0], module) - _delta(files[1], module)
    assert error(found[QUERY], expected) < BOUND


def test_one_file_twice_folds_to_one_product(tmp_path: Path, tensors: dict[str, Array]) -> None:
    module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    path = tmp_path / "a.safetensors"
    save_file(file := _lokr(module), path)
    with open_adapter(path, 0.5) as adapter:
        graphs = ApplyAdapters(match([adapter], SMALL)).apply(lower())
        folded = FoldKronecker().apply(graphs)
        (matmul,) = {
            node
            for graph in folded
            for node in graph.nodes()
            if node.op == "matmul"
            and node.operands[1].op == "add"
            and _reads(node.operands[1].operands[0], QUERY)
        }
        value = evaluate(matmul.operands[1], WeightSource(Tensors(tensors), [adapter]).read_weight)
    assert [operand.op for operand in matmul.operands[1].operands] == ["weight", "kron"]
    assert error(value, tensors[QUERY] + 0.5 * _delta(file, module)) < BOUND


def _reads(node: Node, name: str) -> bool:
    return node.op == "weight" and node.text("name") == name


def test_strength_zero_leaves_the_module_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(_lokr(f"unet.{DIFFUSERS_QUERY}"), path)
    with open_adapter(path, 0.0) as adapter:
        plan = match([adapter], SMALL)
    assert plan.updates == {}
    assert equal(ApplyAdapters(plan).apply(lower()), lower())


def test_unmatched_modules_are_listed_when_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({**_lokr(f"unet.{DIFFUSERS_QUERY}"), **_lokr("lora_unet_nothing")}, path)
    with open_adapter(path) as adapter:
        plan = match([adapter], SMALL, allow_unmatched=True)
    assert plan.unmatched == ("lora_unet_nothing",)
    assert list(plan.updates) == [QUERY]


def test_matrices_for_a_convolution_that_the_file_stores_as_matrix(
    tmp_path: Path, tensors: dict[str, Array]
) -> None:
    """Checkpoints converted by diffusers hold proj_in as [C, C]: the delta takes the weight's shape."""
    path = tmp_path / "a.safetensors"
    save_file(file := _lokr("lora_unet_input_blocks_1_1_proj_in"), path)
    name = "model.diffusion_model.input_blocks.1.1.proj_in.weight"
    with open_adapter(path) as adapter:
        (update,) = match([adapter], SMALL).updates[name]
        matrix = Tensors({name: tensors[name].reshape(32, 32)})
        found = evaluate(update(weight(name, (32, 32))), WeightSource(matrix, [adapter]).read_weight)
    expected = tensors[name].reshape(32, 32) + _delta(file, "lora_unet_input_blocks_1_1_proj_in")
    assert error(found, expected) < BOUND
