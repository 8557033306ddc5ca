"""Adapters made to exhaust a machine: one clear line, soon, and in little memory.

Each is built into a whole model by the command line in a process of its own, which cannot get more memory
than the bound. Time is the processor's, imports included, so that a busy machine does not fail the test.
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.conftest import files

__all__ = ["files"]

MOST_BYTES = 1 << 30
MOST_SECONDS = 5.0

CHILD = """
import resource, sys, time
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]), int(sys.argv[1])))
from sdcomp.cli.main import main
from sdcomp.workers import peak_bytes
code = main(sys.argv[2:])
print(code, peak_bytes(), time.process_time())
"""

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
Q = f"lora_unet_{BLOCK.replace('.', '_')}_attn1_to_q"
TABLE = "lora_te_text_model_embeddings_token_embedding"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
MANY = 99_000
"""Tensors that are just about read."""


def write_sparse(path: Path, shapes: dict[str, list[int]], metadata: dict[str, str] | None = None) -> None:
    """A file of zeros, written without making them."""
    header: dict[str, Any] = {"__metadata__": metadata or {}}
    end = 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def sparse(shapes: dict[str, list[int]], metadata: dict[str, str] | None = None) -> Callable[[Path], None]:
    return lambda path: write_sparse(path, shapes, metadata)


def dense(**tensors: Any) -> Callable[[Path], None]:
    """Of the module Q; `_weight` ends suffixes in `.weight`."""
    named = {
        f"{Q}.{name.replace('_weight', '.weight')}": np.asarray(value) for name, value in tensors.items()
    }
    return lambda path: save_file(named, path)


def full(value: float, *shape: int) -> Any:
    return np.full(shape, value, np.float32)


def patterns(path: Path) -> None:
    """Many patterns, many modules, and many ends of each module's name: none of it multiplied."""
    names = {f"never.{index}": 1 for index in range(20_000)}
    config = {"lora_alpha": 1, "r": 4, "rank_pattern": names, "feedforward_modules": list(names)}
    modules = [f"base_model.model.{'a.' * 60}{index}" for index in range(10_000)]
    metadata = {"lora_adapter_metadata": json.dumps(config)}
    write_sparse(path, {f"{module}.lora_A.weight": [1, 1] for module in modules}, metadata)


def header_beyond_the_file(path: Path) -> None:
    with path.open("wb") as file:
        file.write((80 * 1_000_000).to_bytes(8, "little"))
        file.truncate(1 << 30)


HUGE = 1 << 28
CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a million tensors": (header_beyond_the_file, "its header claims 80000000 bytes, at most"),
    "hundreds of thousands of tensors": (
        sparse({f"{index}.alpha": [] for index in range(200_000)}),
        "has 200000 tensors, at most 100000 are read",
    ),
    "very many modules": (
        sparse({f"{index}.alpha": [] for index in range(MANY)}),
        f"adapts {MANY} modules, at most 20000 are read",
    ),
    "very many unknown tensors": (
        sparse({f"{index}.lokr_w9": [1] for index in range(MANY)} | {f"{Q}.diff": [32, 32]}),
        f"{MANY} tensors are not part of any known adapter format",
    ),
    "very many empty tensors": (
        sparse({f"{index}.lokr_w1": [0] for index in range(MANY)}),
        f"adapts {MANY} modules",
    ),
    "very many tensors of one module": (
        sparse({f"conv_in.lora_A.{index}.weight": [1] for index in range(MANY)}),
        "is the same tensor as",
    ),
    "patterns times modules": (patterns, "10000 of 10000 modules are not in this model"),
    "ranks larger than memory": (
        sparse({f"{Q}.lora_up.weight": [32, HUGE], f"{Q}.lora_down.weight": [HUGE, 32]}),
        "is absurdly large for a weight [32, 32]",
    ),
    "a rank below the limit for tables": (
        sparse({f"{TABLE}.lora_embedding_B": [64, 60_000], f"{TABLE}.lora_embedding_A": [60_000, 49_408]}),
        "is absurdly large for a weight [49408, 64]",
    ),
    "a Tucker core larger than memory": (
        sparse({
            **{f"{CONV}.lokr_w1": [4, 4], f"{CONV}.lokr_t2": [20_000, 20_000, 3, 3]},
            **{f"{CONV}.lokr_w2_a": [20_000, 8], f"{CONV}.lokr_w2_b": [20_000, 8]},
        }),
        "is absurdly large for a weight [32, 32, 3, 3]",
    ),
    "factors that make a matrix larger than memory": (
        sparse({f"{Q}.lokr_w1": [1000, 1000], f"{Q}.lokr_w2": [1000, 1000]}),
        "make [1000000, 1000000]; it is for another model",
    ),
    "sides whose product wraps around": (
        sparse({f"{Q}.lokr_w1": [1 << 40, 0], f"{Q}.lokr_w2": [8, 8]}),
        "is empty: its shape is",
    ),
    "more elements than any machine holds": (
        sparse({f"{Q}.lokr_w1": [1 << 40, 1 << 40, 0], f"{Q}.lokr_w2": [8, 8]}),
        "sensible sizes",
    ),
    "zero-size tensors": (
        dense(lokr_w1=full(1, 4, 0), lokr_w2=full(1, 8, 8)),
        "is empty: its shape is [4, 0]",
    ),
    "zero-size alpha": (
        dense(lokr_w1=full(1, 4, 4), lokr_w2=full(1, 8, 8), alpha=full(1, 0)),
        "must be one number, its shape is [0]",
    ),
    "NaN": (dense(lokr_w1=full(math.nan, 4, 4), lokr_w2=full(1, 8, 8)), f"'{Q}.lokr_w1': contains NaN"),
    "infinity": (dense(diff=full(-math.inf, 32, 32)), f"'{Q}.diff': contains NaN or infinity"),
    "a product that overflows": (
        dense(lokr_w1=full(1e30, 4, 4), lokr_w2=full(1e30, 8, 8)),
        "its factors reach 1e+30 and 1e+30, so that their product overflows",
    ),
    "a sum that overflows": (
        dense(lora_up_weight=full(200, 32, 8), lora_down_weight=full(200, 8, 32)),
        "more than f16 can hold; lower the strength",
    ),
    "negative alpha": (
        dense(lora_up_weight=full(1, 32, 8), lora_down_weight=full(1, 8, 32), alpha=full(-1)),
        "is -1; it must not be negative",
    ),
    "infinite alpha": (
        dense(lora_up_weight=full(1, 32, 8), lora_down_weight=full(1, 8, 32), alpha=full(math.inf)),
        "its scale is inf",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_refused_soon_and_in_little_memory(case: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    write, message = CASES[case]
    adapter, artifact = tmp_path / "adapter.safetensors", tmp_path / "model.so"
    write(adapter)
    arguments = ("build", files[0], "--lokr", adapter, "-o", artifact, "--size", "64x32")
    command = [sys.executable, "-c", CHILD, str(MOST_BYTES), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    (error,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert message in error
    assert "Traceback" not in result.stderr
    code, peak, seconds = result.stdout.split()
    assert int(code) == 1
    assert int(peak) < MOST_BYTES
    assert float(seconds) < MOST_SECONDS
    assert not artifact.exists()
