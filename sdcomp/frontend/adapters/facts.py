"""What sd-scripts and LyCORIS write in a file's metadata: hints, all of them strings."""

import json
from collections.abc import Mapping
from math import isfinite

from sdcomp.frontend.adapters.group import Facts

_TRUE = ("true", "1")


def trainer_facts(metadata: Mapping[str, str]) -> Facts:
    """Dimension, alphas and rs_lora, as `ss_` keys give them; what cannot be read counts as absent."""
    arguments = _arguments(metadata.get("ss_network_args", ""))
    dim = _number(metadata.get("ss_network_dim"))
    alphas = (_number(metadata.get("ss_network_alpha")), _number(arguments.get("conv_alpha")))
    return Facts(
        dim=int(dim) if dim else None,
        user_alphas=tuple(alpha for alpha in alphas if alpha is not None),
        rs_lora=str(arguments.get("rs_lora", "")).lower() in _TRUE,
    )


def _arguments(text: str) -> Mapping[str, object]:
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if isfinite(number) else None
