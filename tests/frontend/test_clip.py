"""The lowered text encoder against transformers' CLIPTextModel on the same random weights."""

from dataclasses import replace

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from sdcomp.errors import FamilyError
from sdcomp.frontend.clip import lower_text_encoder
from sdcomp.frontend.config import TextEncoderConfig
from sdcomp.ir.graph import Module
from sdcomp.ir.interpret import interpret
from sdcomp.ir.verify import verify
from tests.frontend.oracle import OracleWeights, randomise, relative_error

SMALL = TextEncoderConfig(
    prefix="cond_stage_model.transformer.",
    width=32,
    layers=3,
    heads=4,
    mlp_width=96,
    activation="quick_gelu",
    vocabulary=50,
    positions=9,
)


def make(config: TextEncoderConfig, dtype: torch.dtype) -> tuple[CLIPTextModel, OracleWeights]:
    torch.manual_seed(0)
    settings = CLIPTextConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        max_position_embeddings=config.positions,
        hidden_act=config.activation,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    model = randomise(CLIPTextModel(settings), dtype)
    nested = any(name.startswith("text_model.") for name in model.state_dict())
    return model, OracleWeights(
        model, config.prefix, lambda name: name if nested else name.removeprefix("text_model.")
    )


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_agrees_with_transformers(activation: str, dtype: torch.dtype, bound: float) -> None:
    config = replace(SMALL, activation=activation)
    model, weights = make(config, dtype)
    graph = lower_text_encoder(config, weights.node, batch=2)
    verify(Module((graph,)))
    assert not {name for name in weights.unused if "position_ids" not in name}
    tokens = torch.randint(0, config.vocabulary, (2, config.positions), dtype=torch.int32)
    found = interpret(graph, {"tokens": tokens.numpy()}, weights.read)["hidden_states"]
    assert relative_error(found, model(input_ids=tokens).last_hidden_state) <= bound


def test_later_tokens_do_not_change_earlier_states() -> None:
    _, weights = make(SMALL, torch.float64)
    graph = lower_text_encoder(SMALL, weights.node)
    tokens = torch.arange(SMALL.positions, dtype=torch.int32)[None].numpy()
    changed = tokens.copy()
    changed[0, -1] = 20
    first, second = (
        interpret(graph, {"tokens": ids}, weights.read)["hidden_states"] for ids in (tokens, changed)
    )
    assert (first[:, :-1] == second[:, :-1]).all()
    assert (first[:, -1] != second[:, -1]).any()


def test_unknown_activation_is_refused() -> None:
    _, weights = make(SMALL, torch.float32)
    with pytest.raises(FamilyError, match="activation 'relu'"):
        lower_text_encoder(replace(SMALL, activation="relu"), weights.node)


def test_weight_of_wrong_shape_is_named() -> None:
    _, weights = make(SMALL, torch.float32)
    with pytest.raises(
        FamilyError, match=r"position_embedding\.weight: expected .*\[77, 32\], found f32\[9,32\]"
    ):
        lower_text_encoder(replace(SMALL, positions=77), weights.node)
