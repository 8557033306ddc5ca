"""DoRA (Liu et al. 2024; lycoris/modules/locon.py, peft/tuners/lora/dora.py): a new length for every row.

    V = W + gamma delta        W' = V s / (|V| + eps)        |V| over all axes but one

s is `dora_scale`: [1, in, ...] has a length per input, [out, 1, ...] or [out] one per output. LyCORIS wrote
the former until 3.2, the latter since; the shape tells. PEFT's `lora_magnitude_vector`, [out] or
[1, out, 1, 1], is always per output, for an embedding table [V, width] per column.
Strength m blends: W + m (W' - W), as in ComfyUI and webui.
"""

from sdcomp.frontend.adapters.expressions import along, blended, number
from sdcomp.frontend.adapters.factors import factor
from sdcomp.frontend.adapters.group import Group
from sdcomp.frontend.adapters.lora import is_embedding
from sdcomp.frontend.adapters.suffixes import DORA_SCALE, MAGNITUDE
from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build

EPSILONS = {DORA_SCALE: 2.0**-23, MAGNITUDE: 2.0**-126}
"""What LyCORIS adds to the norm; PEFT adds nothing, so that here it is the least that avoids 0 / 0."""

_ANY_RANK = (1, 2, 3, 4)


def dora_suffix(group: Group) -> str | None:
    """The suffix of the lengths, if the group has any."""
    return next((suffix for suffix in (DORA_SCALE, MAGNITUDE) if suffix in group.factors), None)


def dora_weight(group: Group, file: str, weight: Node, delta: Node, strength: float) -> Node:
    """W + m (W' - W), of weight W and gamma delta. Raises AdapterError for lengths that do not fit W."""
    suffix = DORA_SCALE if DORA_SCALE in group.factors else MAGNITUDE
    lengths = factor(group, file, suffix, _ANY_RANK)
    axis, rank = dora_axis(group, suffix), len(weight.shape)
    if rank < 2 or lengths.type.elements != weight.shape[axis]:
        found = f"is {list(lengths.shape)}, which is no length per {('output', 'input')[axis]}"
        raise group.error(f"{found} of a weight {list(weight.shape)}", suffix)
    changed = build("add", weight, delta)
    norm = build("norm", changed, axes=tuple(other for other in range(rank) if other != axis))
    scale = build("div", along(lengths, axis, rank), build("add", norm, number(EPSILONS[suffix])))
    return blended(strength, weight, build("mul", changed, scale))


def dora_axis(group: Group, suffix: str) -> int:
    """The axis of the weight along which lengths are given: 0 per output, 1 per input."""
    if suffix == MAGNITUDE:
        return 1 if is_embedding(group) else 0
    shape = group.factors[suffix].shape
    return 1 if len(shape) > 1 and shape[0] == 1 and shape[1] != 1 else 0
