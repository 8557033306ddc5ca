"""A whole model as one module: its graphs, their inputs and outputs, and weights that are shared."""

from dataclasses import replace

import pytest

from sdcomp.errors import FamilyError, UsageError
from sdcomp.frontend.config import ModelConfig
from sdcomp.frontend.lower import lower_model
from sdcomp.frontend.names import text_layers, unet_layers, vae_layers
from sdcomp.ir.graph import Module, Node
from sdcomp.ir.types import DType, TensorType
from sdcomp.ir.verify import verify
from tests.frontend.test_clip import SMALL as TEXT
from tests.frontend.test_unet import TWO_LEVELS as UNET
from tests.frontend.test_vae import TWO_LEVELS as VAE

CONFIG = ModelConfig("sd1", "eps", replace(UNET, context_channels=TEXT.width), TEXT, VAE)


def small_model(config: ModelConfig = CONFIG) -> tuple[ModelConfig, dict[str, TensorType]]:
    """A model and the types of its tensors, biases in f32 and the rest in f16."""
    parts = (
        (config.unet.prefix, unet_layers(config.unet)),
        (config.text.prefix, text_layers(config.text)),
        (config.vae.prefix, vae_layers(config.vae)),
    )
    shapes = {
        prefix + name: shape
        for prefix, layers in parts
        for layer in layers
        for name, shape in layer.tensors()
    }
    return config, {
        name: TensorType(shape, DType.F32 if len(shape) == 1 else DType.F16) for name, shape in shapes.items()
    }


def weights(module: Module) -> set[Node]:
    return {node for graph in module for node in graph.nodes() if node.op == "weight"}


def test_graphs_have_the_names_and_types_of_their_size() -> None:
    module = lower_model(*small_model(), [(32, 16)])
    verify(module)
    signatures = {
        graph.name: (
            {node.text("name"): str(node.type) for node in graph.inputs()},
            {name: str(node.type) for name, node in graph.outputs.items()},
        )
        for graph in module
    }
    context = {"timestep": "f32[1]", "latents": "f32[1,4,8,16]"}
    assert signatures == {
        "text": ({"tokens": "i32[1,9]"}, {"hidden_states": "f32[1,9,32]"}),
        "unet@32x16x1": ({**context, "context": "f32[1,9,32]"}, {"noise": "f32[1,4,8,16]"}),
        "unet@32x16x2": ({**context, "context": "f32[2,9,32]"}, {"noise": "f32[2,4,8,16]"}),
        "vae_decoder@32x16": ({"latents": "f32[1,4,8,16]"}, {"image": "f32[1,3,16,32]"}),
        "vae_encoder@32x16": (
            {"image": "f32[1,3,16,32]"},
            {"mean": "f32[1,4,8,16]", "log_variance": "f32[1,4,8,16]"},
        ),
    }
    assert module.facts["sizes"] == "32x16"
    assert module.facts["family"] == "sd1"


def test_every_tensor_is_one_node_of_all_graphs() -> None:
    config, types = small_model()
    module = lower_model(config, types, [(32, 16), (16, 16), (32, 16)])
    assert len(module.graphs) == 1 + 2 * 4
    nodes = weights(module)
    assert {node.text("name"): node.type for node in nodes} == types
    assert len(nodes) == len(types)
    assert {node.text("file") for node in nodes} == {"model"}


def test_views_of_weights_are_shared_too() -> None:
    module = lower_model(*small_model(), [(32, 16), (16, 16)])
    views = {
        node
        for graph in module
        for node in graph.nodes()
        if node.op == "reshape" and node.operands[0].op == "weight"
    }
    assert views
    assert len({node.operands[0] for node in views}) == len(views)


def test_model_without_encoder_has_no_encoder_graph() -> None:
    module = lower_model(*small_model(replace(CONFIG, vae=replace(VAE, has_encoder=False))), [(16, 16)], (1,))
    assert [graph.name for graph in module] == ["text", "unet@16x16x1", "vae_decoder@16x16"]


def test_missing_tensor_is_named() -> None:
    config, types = small_model()
    name = "model.diffusion_model.middle_block.1.proj_in.weight"
    del types[name]
    with pytest.raises(FamilyError, match=f"{name}: the checkpoint has no such tensor"):
        lower_model(config, types, [(16, 16)])


def test_tensor_of_integers_is_named() -> None:
    config, types = small_model()
    name = "first_stage_model.post_quant_conv.weight"
    types[name] = TensorType(types[name].shape, DType.I32)
    with pytest.raises(FamilyError, match=f"{name}: expected a float tensor"):
        lower_model(config, types, [(16, 16)])


@pytest.mark.parametrize("size", [(30, 16), (16, 18), (0, 16), (-4, 16)])
def test_size_that_the_networks_cannot_have_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=f"size {size[0]}x{size[1]}: .*multiples of 4"):
        lower_model(*small_model(), [(16, 16), size])
