"""Writes docs/ir.md from the op table: `python -m sdcomp.ir.document`, at the root of the repository."""

from collections.abc import Iterable
from pathlib import Path

from sdcomp.ir import graph, text
from sdcomp.ir.graph import RATES, Graph, Module
from sdcomp.ir.ops import MANY, OPS, Op, build
from sdcomp.ir.types import DType

PATH = Path("docs/ir.md")

_RATES = {
    "model": "never during a run: weights, what is computed from them, and strengths of live adapters",
    "prompt": "once per prompt",
    "step": "once per step of the sampler",
    "eval": "at every evaluation of the network",
}
_KINDS = {
    "integer": "`8`",
    "number": "an integer or a float: `1e-05`, `inf`",
    "flag": "`true` or `false`",
    "text": '`"model"`, with the escapes of JSON',
    "integers": "`(1, 1, 1, 1)`, `(2,)`, `()`",
    "numbers": "`(0.5, 1.0)`",
}


def document() -> str:
    """The text of docs/ir.md."""
    sections = (
        "# The IR",
        "`python -m sdcomp.ir.document` writes this page from the op table (`sdcomp/ir/ops.py`).",
        (graph.__doc__ or "").strip(),
        f"Element types are {', '.join(dtype.value for dtype in DType)}.\n"
        "Activations are f32, tokens i32; weights keep the type that they are stored with.",
        "## Operations",
        _table(("operation", "attributes", "meaning"), map(_operation, OPS.values())),
        "Pointwise operations broadcast as numpy does. `...` stands for more operands of the same kind.",
        "## Attributes",
        _table(("kind", "written as"), _KINDS.items()),
        "## Rates",
        "How often a value can change. A node's rate is the fastest of its operands'.",
        _table(("rate", "the value changes"), ((rate, _RATES[rate]) for rate in RATES)),
        "## Text form",
        (text.__doc__ or "").strip(),
        "A linear layer, for example:",
        f"```\n{text.print_module(_example())}```",
    )
    return "\n\n".join(sections) + "\n"


def _operation(op: Op) -> tuple[str, str, str]:
    operands = ", ".join(op.operands) + ("..." if op.arity[1] == MANY else "")
    attributes = ", ".join(f"{name}: {kind}" for name, kind in op.attributes.items())
    return f"`{op.name}({operands})`" if operands else f"`{op.name}`", attributes, op.meaning


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (header, ("---",) * len(header), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _example() -> Module:
    x = build("input", name="x", rate="eval", shape=(2, 4), dtype="f32")
    weight = build("weight", name="proj.weight", file="model", shape=(8, 4), dtype="f16")
    bias = build("weight", name="proj.bias", file="model", shape=(8,), dtype="f16")
    y = build("add", build("matmul", x, weight), bias)
    return Module((Graph("linear", {"y": y}),), {"family": "sd1"})


if __name__ == "__main__":
    PATH.write_text(document(), encoding="utf-8")
