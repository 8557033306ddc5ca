"""The factor before a difference: alpha, scale, scalar, rs_lora and PEFT's configuration; doubts about it."""

import json
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sdcomp.errors import AdapterError
from sdcomp.frontend.adapters import open_adapter
from sdcomp.frontend.adapters.factors import scale_of
from sdcomp.frontend.adapters.lint import warnings_of
from tests.frontend.adapter_case import random, scalar

RANK = 4

LORA = {"lora_up.weight": random(8, RANK), "lora_down.weight": random(RANK, 8)}
LOKR = {"lokr_w1": random(2, 2), "lokr_w2": random(4, 4)}


def write(
    folder: Path,
    tensors: dict[str, Any],
    metadata: dict[str, str] | None = None,
    module: str = "m",
    config: dict[str, Any] | None = None,
) -> Path:
    path = folder / "adapter.safetensors"
    save_file({f"{module}.{suffix}": np.asarray(v) for suffix, v in tensors.items()}, path, metadata)
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return path


def scale(path: Path, rank: int | None = RANK) -> float:
    with open_adapter(path) as adapter:
        return scale_of(adapter.groups[0], rank)


CASES: dict[str, tuple[dict[str, float], dict[str, str], float]] = {
    "nothing": ({}, {}, 1.0),
    "alpha": ({"alpha": 2}, {}, 0.5),
    "alpha 0 is alpha = rank": ({"alpha": 0}, {}, 1.0),
    "scale before alpha": ({"alpha": 2, "scale": 3}, {}, 3.0),
    "scalar": ({"alpha": 2, "scalar": 3}, {}, 1.5),
}
RS_LORA = '{"rs_lora": "True", "conv_alpha": 9}'
RS_CASES: dict[str, tuple[float, str, float]] = {
    "product, as LyCORIS writes since 2024-07": (2 * sqrt(RANK), RS_LORA, 2 / sqrt(RANK)),
    "plain, as it wrote before": (2, RS_LORA, 2 / sqrt(RANK)),
    "plain, convolution": (9, RS_LORA, 9 / sqrt(RANK)),
    "no rs_lora": (2, '{"rs_lora": "False"}', 2 / RANK),
    "arguments that are no JSON": (2, "{rs_lora", 2 / RANK),
    "arguments that are no object": (2, "[1]", 2 / RANK),
}


@pytest.mark.parametrize("case", CASES)
def test_scale(case: str, tmp_path: Path) -> None:
    scalars, metadata, expected = CASES[case]
    path = write(tmp_path, LORA | {name: scalar(value) for name, value in scalars.items()}, metadata)
    assert scale(path) == expected


@pytest.mark.parametrize("case", RS_CASES)
def test_rs_lora(case: str, tmp_path: Path) -> None:
    alpha, arguments, expected = RS_CASES[case]
    metadata = {"ss_network_alpha": "2.0", "ss_network_dim": "4", "ss_network_args": arguments}
    assert scale(write(tmp_path, LORA | {"alpha": scalar(alpha)}, metadata)) == pytest.approx(expected, 1e-6)


UNSURE = "ss_network_dim"
DOUBTS: dict[str, tuple[dict[str, Any], dict[str, str], str | None]] = {
    "alpha of a trainer that multiplies": (
        LOKR | {"alpha": scalar(1)},
        {UNSURE: "32"},
        "strength of 0.03125",
    ),
    "alpha is the dimension": (LOKR | {"alpha": scalar(32)}, {UNSURE: "32"}, None),
    "huge alpha": (LOKR | {"alpha": scalar(1e10)}, {UNSURE: "32"}, None),
    "infinite alpha": (LOKR | {"alpha": np.float16(np.inf)}, {UNSURE: "32"}, None),
    "no dimension": (LOKR | {"alpha": scalar(1)}, {}, None),
    "rs_lora before 4": (
        LOKR | {"alpha": scalar(64)},
        {UNSURE: "16", "ss_network_args": RS_LORA},
        "4 times as strong",
    ),
    "alpha 0": (LORA | {"alpha": scalar(0)}, {}, "alpha is 0 in 1 modules"),
}


@pytest.mark.parametrize("case", DOUBTS)
def test_doubt(case: str, tmp_path: Path) -> None:
    tensors, metadata, expected = DOUBTS[case]
    path = write(tmp_path, tensors, metadata)
    with open_adapter(path) as adapter:
        found = list(warnings_of(adapter))
    assert len(found) == (expected is not None)
    assert all(line.startswith(f"{path}: ") and expected in line for line in found if expected)


MODULE = "base_model.model.down_blocks.0.to_q"
CONFIG = {"peft_type": "LORA", "lora_alpha": 6, "r": 4}
CONFIGS: dict[str, tuple[dict[str, Any], float]] = {
    "alpha over rank": ({}, 1.5),
    "rs_lora": ({"use_rslora": True}, 3.0),
    "rank pattern": ({"rank_pattern": {"to_q": 2}}, 3.0),
    "alpha pattern": ({"alpha_pattern": {"down_blocks.0.to_q": 2}}, 0.5),
    "escaped pattern": ({"alpha_pattern": {r"^down_blocks\.0\.to_q$": 2}}, 0.5),
    "pattern of another": ({"alpha_pattern": {"q": 2, "0.to_k": 2, "^to_q": 2}}, 1.5),
    "LoKr": ({"peft_type": "LOKR", "alpha": 2}, 0.5),
    "no scale": ({"peft_type": "BOFT"}, 1.0),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configuration_of_peft(case: str, tmp_path: Path) -> None:
    fields, expected = CONFIGS[case]
    path = write(tmp_path, LORA, module=MODULE, config=CONFIG | fields)
    assert scale(path) == expected
    with open_adapter(path) as adapter:
        assert list(warnings_of(adapter)) == []


def test_metadata_of_diffusers(tmp_path: Path) -> None:
    packed = {"unet.lora_alpha": 6, "unet.r": 4, "text_encoder.lora_alpha": 2, "text_encoder.r": 4}
    metadata = {"lora_adapter_metadata": json.dumps(packed)}
    assert scale(write(tmp_path, LORA, metadata, "unet.conv_in")) == 1.5
    assert scale(write(tmp_path, LORA, metadata, "text_encoder.text_model.encoder.layers.0.mlp.fc1")) == 0.5


def test_configuration_beside_a_file_of_another_tool_is_not_its_own(tmp_path: Path) -> None:
    assert (
        scale(write(tmp_path, LORA | {"alpha": scalar(2)}, module="lora_unet_conv_in", config=CONFIG)) == 0.5
    )


def test_no_configuration_is_doubtful(tmp_path: Path) -> None:
    with open_adapter(write(tmp_path, LORA, module=MODULE)) as adapter:
        (doubt,) = warnings_of(adapter)
    assert "there is no adapter_config.json beside it" in doubt


def test_training_that_changed_the_base_is_doubtful(tmp_path: Path) -> None:
    config = CONFIG | {"init_lora_weights": "pissa_niter_4"}
    with open_adapter(write(tmp_path, LORA, module=MODULE, config=config)) as adapter:
        (doubt,) = warnings_of(adapter)
    assert "init_lora_weights=pissa_niter_4 changed the base weights too" in doubt


BAD_CONFIGS: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "is not JSON"),
    "no object": ("[]", "must be a JSON object"),
    "nested": ("[" * 100_000, "is not JSON"),
    "long": (" " * (1 << 20) + "{}", "is longer than 1048576 bytes"),
    "no alpha": ('{"r": 4}', "lora_alpha must be a finite number, found 'None'"),
    "no number": ('{"r": "4", "lora_alpha": 1}', "r must be a finite number"),
    "infinite": ('{"r": 4, "lora_alpha": Infinity}', "lora_alpha must be a finite number"),
    "rank 0": ('{"r": 0, "lora_alpha": 1}', "lora_alpha 1 and r 0 of 'down_blocks.0.to_q' make no scale"),
    "negative": ('{"r": 4, "lora_alpha": -1}', "make no scale"),
    "regular expression": (
        '{"r": 4, "lora_alpha": 1, "rank_pattern": {"(a+)+$": 1}}',
        r"rank_pattern has the regular expression '\(a\+\)\+\$'",
    ),
    "patterns that are none": ('{"r": 4, "lora_alpha": 1, "rank_pattern": [1]}', "must map names of modules"),
    "terms": (
        '{"peft_type": "OFT", "use_cayley_neumann": true, "num_cayley_neumann_terms": 1e9}',
        "must be 1 to 64",
    ),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_configuration(case: str, tmp_path: Path) -> None:
    text, message = BAD_CONFIGS[case]
    path = write(tmp_path, LORA, module=MODULE)
    config = tmp_path / "adapter_config.json"
    config.write_text(text)
    with pytest.raises(AdapterError, match=message) as found:
        open_adapter(path)
    assert str(found.value).startswith(f"{config}: ")
