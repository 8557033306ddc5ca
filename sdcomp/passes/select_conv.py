"""select_conv: the algorithm of each convolution, by what its kernels would cost, with its reason.

The estimate is of one thread: the elements that each part of a kernel handles, with the kernel's own tile
sizes, times what one costs on the target (`codegen/costs.py`). Winograd makes n^2 products per tile of m x m
pixels where a direct convolution makes 9 m^2, but transforms its input once per block of weight panels and
the filters once per block of tiles. Few tiles do not pay for that.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sdcomp.codegen.convolution import Convolution, Form, forms, kernels, name
from sdcomp.codegen.costs import Costs
from sdcomp.ir.graph import Module, Node
from sdcomp.ir.rates import node_rates
from sdcomp.passes.fusion.lowering import label
from sdcomp.winograd.matrices import TAPS


@dataclass(frozen=True)
class Choice:
    """`form` of a Winograd convolution, or None for a direct one; `reason` is for people.

    `milliseconds` are the estimates by algorithm; none where there is nothing to choose.
    """

    form: Form | None
    reason: str
    milliseconds: dict[str, float] = field(default_factory=dict)


def select_conv(node: Node, costs: Costs, scale: int = 2) -> Choice:
    """The algorithm for a conv2d node; `scale` is the largest upsampling that may be folded into it."""
    kernel, stride = node.operands[1].shape[2:], node.integer("stride")
    if kernel != (TAPS, TAPS) or stride != 1:
        return Choice(None, f"{kernel[0]}x{kernel[1]} with stride {stride}")
    shape = _shape(node)
    candidates = [form for form in forms(shape.scale) if form is None or form[1] <= scale]
    estimates = {form: costs.milliseconds(kernels(shape, form, costs.target)) for form in candidates}
    best = min(candidates, key=lambda form: estimates[form])
    reason = f"{estimates[best] / estimates[None]:.2f} of the direct cost" if best else "the least cost"
    return Choice(best, reason, {name(form): estimate for form, estimate in estimates.items()})


def decisions(module: Module, costs: Costs) -> Iterator[dict[str, Any]]:
    """What `select_conv` says of each convolution of activations: a JSON-ready record per program and node.

    `shape` is (samples, height, width, channels) of the output, `depth` the input's channels, `upsampled`
    whether the input is; `milliseconds` are estimates for one thread.
    """
    for graph in module:
        rates = node_rates(graph.outputs.values())
        for node in graph.nodes():
            if node.op != "conv2d" or rates[node] == "model":
                continue
            choice = select_conv(node, costs)
            yield {
                "program": graph.name,
                "layer": label(node),
                "shape": list(node.shape),
                "depth": node.operands[1].shape[1],
                "upsampled": _scale(node) > 1,
                "algorithm": name(choice.form),
                "reason": choice.reason,
                "milliseconds": {key: float(f"{ms:.3g}") for key, ms in choice.milliseconds.items()},
            }


def _shape(node: Node) -> Convolution:
    columns, depth = node.operands[1].shape[:2]
    batches, height, width, _ = node.shape
    return Convolution(batches, height, width, depth, columns, _scale(node))


def _scale(node: Node) -> int:
    """2 where the convolution is of a map upsampled by 2 with a border of 1: what can be folded."""
    x = node.operands[0]
    upsampled = x.op == "upsample_nearest" and x.integer("scale") == 2
    return 2 if upsampled and node.integers("padding") == (1, 1, 1, 1) else 1
