"""(IA)3 (Liu et al. 2022): a layer's inputs or outputs are scaled, channel by channel.

LyCORIS (lycoris/modules/ia3.py) stores how far the scales are from 1, in `weight`:

    W'[o, i, ...] = W[o, i, ...] (1 + m w[i])      with on_input, otherwise w[o]; the bias stays as it is

PEFT (tuners/ia3) stores the scales themselves, in `ia3_l`, and scales outputs after the bias:

    W' = W (1 + m (l - 1))                         b' = b (1 + m (l - 1)) where outputs are scaled
"""

from sdcomp.frontend.adapters.expressions import along, number, scaled
from sdcomp.frontend.adapters.factors import check_complete, factor
from sdcomp.frontend.adapters.group import Group
from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build
from sdcomp.ir.types import Shape

WEIGHT, ON_INPUT = "weight", "on_input"
SCALES = "ia3_l"

OUTPUT, INPUT = 0, 1
"""Axes of a weight."""


def ia3_weight(group: Group, file: str, weight: Node, strength: float) -> Node:
    """W'. Raises AdapterError where there is not one scale per channel."""
    check_complete(group, (WEIGHT,))
    axis = INPUT if group.scalars[ON_INPUT] else OUTPUT
    _check(group, WEIGHT, weight.shape, axis)
    deviation = along(factor(group, file, WEIGHT, (1, 4)), axis, len(weight.shape))
    return build("mul", weight, build("add", number(1.0), scaled(strength, deviation)))


def peft_ia3_weight(group: Group, file: str, weight: Node, strength: float) -> Node:
    """W'. Raises AdapterError where there is not one scale per channel, or nothing tells of which side."""
    axis = peft_axis(group, weight.shape)
    _check(group, SCALES, weight.shape, axis)
    scales = along(factor(group, file, SCALES, (2, 4)), axis, len(weight.shape))
    return build("mul", weight, _from_one(strength, scales))


def peft_ia3_bias(group: Group, file: str, bias: Node, strength: float) -> Node:
    """b', of a layer whose outputs are scaled."""
    scales = along(factor(group, file, SCALES, (2, 4)), 0, 1)
    return build("mul", bias, _from_one(strength, scales))


def peft_axis(group: Group, shape: Shape) -> int:
    """The axis of the weight that `ia3_l` scales: [out, 1] and [1, in] for a linear layer.

    A convolution has [1, n, 1, 1] for both: the channels tell, or PEFT's feedforward_modules.
    """
    found = group.factors[SCALES].shape
    if len(found) != 4:
        return OUTPUT if found[-1:] == (1,) else INPUT
    if shape[0] != shape[1]:
        return OUTPUT if found[1] == shape[0] else INPUT
    if group.facts.feedforward is None:
        raise group.error(
            "may scale inputs or outputs; put PEFT's adapter_config.json beside the file to tell", SCALES
        )
    names = group.facts.feedforward
    return INPUT if any(f".{group.module}".endswith(f".{name}") for name in names) else OUTPUT


def _from_one(strength: float, scales: Node) -> Node:
    return build("add", number(1 - strength), scaled(strength, scales))


def _check(group: Group, suffix: str, shape: Shape, axis: int) -> None:
    found = group.factors[suffix]
    if len(shape) < 2 or found.elements != shape[axis]:
        side = "inputs" if axis == INPUT else "outputs"
        raise group.error(f"has {found.elements} scales for the {side} of a weight {list(shape)}", suffix)
