"""What every algorithm does with a weight and a bias, in one table."""

from collections.abc import Callable
from dataclasses import dataclass

from sdcomp.frontend.adapters.dora import dora_suffix, dora_weight
from sdcomp.frontend.adapters.expressions import scaled
from sdcomp.frontend.adapters.full import (
    DIFF,
    DIFF_BIAS,
    NORM_BIAS,
    NORM_WEIGHT,
    full_bias,
    full_delta,
    norm_bias,
    norm_delta,
)
from sdcomp.frontend.adapters.glora import glora_rank, glora_weight
from sdcomp.frontend.adapters.group import Group
from sdcomp.frontend.adapters.ia3 import OUTPUT, ia3_weight, peft_axis, peft_ia3_bias, peft_ia3_weight
from sdcomp.frontend.adapters.loha import loha_delta, loha_input_width, loha_rank
from sdcomp.frontend.adapters.lokr import lokr_delta, lokr_input_width, lokr_rank
from sdcomp.frontend.adapters.lora import lora_bias, lora_delta, lora_input_width, lora_rank
from sdcomp.frontend.adapters.oft import boft_weight, diag_oft_weight
from sdcomp.frontend.adapters.peft_oft import peft_boft_weight, peft_oft_weight
from sdcomp.frontend.adapters.suffixes import (
    BOFT,
    DIAG_OFT,
    FULL,
    GLORA,
    IA3,
    LOHA,
    LOKR,
    LORA,
    NORM,
    PEFT_BOFT,
    PEFT_IA3,
    PEFT_OFT,
    UP_BIAS,
)
from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build
from sdcomp.ir.types import Shape

Change = Callable[[Group, str, Node, float], Node]
"""From a group, its adapter's id, a tensor of the model and the strength to the changed tensor."""


def _always(group: Group, shape: Shape) -> bool:
    del group, shape
    return True


def _never(group: Group, shape: Shape) -> bool:
    del group, shape
    return False


@dataclass(frozen=True)
class Algorithm:
    """How a weight and a bias change, and whether a group does change them, given the weight's shape.

    `rank` is what alpha is divided by, for algorithms that scale; with `plain_alpha` that is the square root
    for rs_lora (see `scale_of`). `input_width` tells how many inputs a linear layer has, where the factors
    say so. `optional_bias`: a layer without bias is none of the file's faults.
    """

    weight: Change | None = None
    bias: Change | None = None
    has_weight: Callable[[Group, Shape], bool] = _always
    has_bias: Callable[[Group, Shape], bool] = _never
    rank: Callable[[Group], int | None] | None = None
    plain_alpha: bool = False
    input_width: Callable[[Group], int | None] | None = None
    optional_bias: bool = False
    delta: Callable[[Group, str, Shape], Node] | None = None
    """D of W + m D, of algorithms whose D has factors to keep apart: what live adapters need."""


def _added(make_delta: Callable[[Group, str, Shape], Node]) -> Change:
    """W + m delta, or DoRA's weight where the group has lengths."""

    def change(group: Group, file: str, weight: Node, strength: float) -> Node:
        delta = make_delta(group, file, weight.shape)
        if dora_suffix(group) is not None:
            return dora_weight(group, file, weight, delta, strength)
        return build("add", weight, scaled(strength, delta))

    return change


def _added_bias(make_delta: Callable[[Group, str], Node]) -> Change:
    """b + m delta"""

    def change(group: Group, file: str, bias: Node, strength: float) -> Node:
        delta = make_delta(group, file)
        if delta.shape != bias.shape:
            raise group.error(f"its bias is {list(delta.shape)}, but the model's is {list(bias.shape)}")
        return build("add", bias, scaled(strength, delta))

    return change


def _has(suffix: str) -> Callable[[Group, Shape], bool]:
    def has(group: Group, shape: Shape) -> bool:
        del shape
        return suffix in group.factors

    return has


def _scales_outputs(group: Group, shape: Shape) -> bool:
    return peft_axis(group, shape) == OUTPUT


ALGORITHMS: dict[str, Algorithm] = {
    LOKR: Algorithm(_added(lokr_delta), rank=lokr_rank, input_width=lokr_input_width, delta=lokr_delta),
    LORA: Algorithm(
        _added(lora_delta),
        _added_bias(lora_bias),
        has_bias=_has(UP_BIAS),
        rank=lora_rank,
        input_width=lora_input_width,
        delta=lora_delta,
    ),
    LOHA: Algorithm(_added(loha_delta), rank=loha_rank, input_width=loha_input_width),
    IA3: Algorithm(ia3_weight),
    PEFT_IA3: Algorithm(peft_ia3_weight, peft_ia3_bias, has_bias=_scales_outputs, optional_bias=True),
    FULL: Algorithm(_added(full_delta), _added_bias(full_bias), _has(DIFF), _has(DIFF_BIAS)),
    NORM: Algorithm(_added(norm_delta), _added_bias(norm_bias), _has(NORM_WEIGHT), _has(NORM_BIAS)),
    GLORA: Algorithm(glora_weight, rank=glora_rank, plain_alpha=True),
    DIAG_OFT: Algorithm(diag_oft_weight),
    BOFT: Algorithm(boft_weight),
    PEFT_OFT: Algorithm(peft_oft_weight),
    PEFT_BOFT: Algorithm(peft_boft_weight),
}
