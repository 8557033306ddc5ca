"""Live adapters: at strength s the folded weight's values, and clear words for what cannot be live."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sdcomp.errors import AdapterError
from sdcomp.frontend.adapters import Group, open_adapter
from sdcomp.frontend.adapters.aliases import Target
from sdcomp.frontend.adapters.live import live_strength, live_update
from sdcomp.frontend.adapters.match import group_updates
from sdcomp.ir.graph import Graph
from sdcomp.ir.interpret import interpret
from tests.frontend.adapter_case import random, scalar
from tests.passes.graphs import Array, error, random_array, weight

LOKR = {"lokr_w1": random(2, 3), "lokr_w2_a": random(4, 2), "lokr_w2_b": random(2, 5), "alpha": scalar(1)}
LORA = {"lora_up.weight": random(8, 2), "lora_down.weight": random(2, 15), "alpha": scalar(1)}
STRENGTHS = np.array([0.5, -0.25, 3.0, 2.0])
"""Of two adapters, for the UNet and the text encoder each."""

TARGETS = {
    "linear": (Target("w", (8, 15), False), (8, 15)),
    "1x1 convolution": (Target("w", (8, 15, 1, 1), False), (8, 15, 1, 1)),
    "rows of a larger weight": (Target("w", (8, 15), True, rows=(8, 16)), (24, 15)),
    "turned": (Target("w", (8, 15), True, turned=True), (15, 8)),
}


def read(folder: Path, tensors: Mapping[str, Array]) -> Group:
    path = folder / "adapter.safetensors"
    save_file({f"m.{suffix}": np.asarray(value) for suffix, value in tensors.items()}, path)
    with open_adapter(path) as adapter:
        return adapter.groups[0]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("tensors", [LOKR, LORA], ids=["LoKr", "LoRA"])
def test_is_the_folded_weight(tmp_path: Path, tensors: Mapping[str, Array], name: str) -> None:
    """The second of two adapters, at its strength for the network of the target."""
    (target, shape), group = TARGETS[name], read(tmp_path, tensors)
    base, strength = weight("w", shape), STRENGTHS[2 + target.is_text]
    live = live_update(group, "adapter1", target, live_strength(1, 2, target))(base)
    ((_, fold),) = group_updates(group, "adapter1", target, float(strength))
    found = interpret(Graph("g", {"y": live}), {"strengths": STRENGTHS}, random_array)["y"]
    expected = interpret(Graph("g", {"y": fold(base)}), {}, random_array)["y"]
    assert error(found, expected) < 1e-12
    assert error(found, random_array(base)) > 0.1


REFUSED: dict[str, Mapping[str, Array]] = {
    "LoHa": {
        f"hada_w{n}_{side}": random(*shape) for n in (1, 2) for side, shape in (("a", (8, 2)), ("b", (2, 15)))
    },
    "(IA)3": {"weight": random(8), "on_input": scalar(0)},
    "full difference": {"diff": random(8, 15)},
    "diag-OFT": {"oft_blocks": random(2, 4, 4)},
    "LoRA with DoRA": {**LORA, "dora_scale": random(8, 1)},
    "LoKr with DoRA": {**LOKR, "dora_scale": random(8, 1)},
    "LoRA in Tucker form": {**LORA, "lora_mid.weight": random(2, 2, 3, 3)},
    "LoRA with a bias": {**LORA, "lora_B.bias": random(8)},
    "LoRA of an embedding table": {"lora_embedding_B": random(15, 2), "lora_embedding_A": random(2, 8)},
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_live(tmp_path: Path, words: str) -> None:
    target, group = TARGETS["linear"][0], read(tmp_path, REFUSED[words])
    with pytest.raises(AdapterError) as found:
        live_update(group, "adapter0", target, live_strength(0, 1, target))
    assert f"'m': {words} cannot be applied at run time; fold the file in with --lokr" in str(found.value)
