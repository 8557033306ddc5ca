"""Lowering of CLIP's text transformer (Radford et al. 2021; transformers' CLIPTextModel) to a graph."""

from sdcomp.errors import FamilyError
from sdcomp.frontend.builder import Builder, Lookup, program_input
from sdcomp.frontend.config import TextEncoderConfig
from sdcomp.ir.graph import Graph, Node
from sdcomp.ir.ops import build
from sdcomp.ir.types import DType

ACTIVATIONS = ("quick_gelu", "gelu")


def lower_text_encoder(
    config: TextEncoderConfig, weights: Lookup, batch: int = 1, name: str = "text"
) -> Graph:
    """The graph of one encoding.

    Input: `tokens` [batch, positions] i32 at rate prompt. Output: `hidden_states` [batch, positions,
    width] f32, the last hidden state after `final_layer_norm`. Blocks are pre-LN and causal; padding
    attends like any other token.

    Raises FamilyError for an unknown activation or a weight that does not fit.
    """
    if config.activation not in ACTIVATIONS:
        known = " or ".join(ACTIVATIONS)
        raise FamilyError(f"text encoder: activation {config.activation!r}, expected {known}")
    model = Builder(config.prefix, weights).at("text_model")
    tokens = program_input("tokens", "prompt", (batch, config.positions), DType.I32)
    hidden_states = _embeddings(config, model.at("embeddings"), tokens)
    for index in range(config.layers):
        hidden_states = _layer(config, model.at(f"encoder.layers.{index}"), hidden_states)
    return Graph(name, {"hidden_states": model.layer_norm(hidden_states, "final_layer_norm")})


def _embeddings(config: TextEncoderConfig, embeddings: Builder, tokens: Node) -> Node:
    table = embeddings.weight("token_embedding.weight", (config.vocabulary, config.width))
    positions = embeddings.weight("position_embedding.weight", (config.positions, config.width))
    return build("add", build("gather", table, tokens), positions)


def _layer(config: TextEncoderConfig, layer: Builder, x: Node) -> Node:
    attended = _attention(config, layer.at("self_attn"), layer.layer_norm(x, "layer_norm1"))
    x = build("add", attended, x)
    hidden = layer.linear(layer.layer_norm(x, "layer_norm2"), "mlp.fc1", config.mlp_width)
    hidden = layer.linear(build(config.activation, hidden), "mlp.fc2", config.width)
    return build("add", hidden, x)


def _attention(config: TextEncoderConfig, block: Builder, x: Node) -> Node:
    query, key, value = (block.linear(x, f"{name}_proj", config.width) for name in ("q", "k", "v"))
    attended = build("attention", query, key, value, heads=config.heads, causal=True)
    return block.linear(attended, "out_proj", config.width)
