"""The names of adapter tensors: which algorithm a suffix belongs to, and its other spellings.

A key is `<module>.<suffix>`. LyCORIS, sd-scripts, diffusers and PEFT spell suffixes differently; every
spelling maps to one canonical suffix, the one that LyCORIS or sd-scripts writes where there is one.
"""

import re

LOKR, LORA, LOHA, IA3, GLORA = "LoKr", "LoRA", "LoHa", "(IA)3", "GLoRA"
FULL, NORM = "full difference", "norm difference"
DIAG_OFT, BOFT, PEFT_OFT, PEFT_BOFT, PEFT_IA3 = "diag-OFT", "BOFT", "PEFT OFT", "PEFT BOFT", "PEFT (IA)3"

UP, DOWN, MID = "lora_up.weight", "lora_down.weight", "lora_mid.weight"
EMBEDDING_UP, EMBEDDING_DOWN, UP_BIAS = "lora_embedding_B", "lora_embedding_A", "lora_B.bias"
DORA_SCALE, MAGNITUDE = "dora_scale", "lora_magnitude_vector"
OFT_BLOCKS, RESCALE = "oft_blocks", "rescale"

ALGORITHMS: dict[str, tuple[str, ...]] = {
    LOKR: ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t1", "lokr_t2"),
    LORA: (UP, DOWN, MID, EMBEDDING_UP, EMBEDDING_DOWN, UP_BIAS, MAGNITUDE),
    LOHA: ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    IA3: ("on_input", "weight"),
    PEFT_IA3: ("ia3_l",),
    FULL: ("diff", "diff_b"),
    NORM: ("w_norm", "b_norm"),
    GLORA: ("a1.weight", "a2.weight", "b1.weight", "b2.weight", "bm.weight"),
    DIAG_OFT: (OFT_BLOCKS, "oft_diag"),
    PEFT_OFT: ("oft_R.weight",),
    PEFT_BOFT: ("boft_R", "boft_s"),
}
"""Algorithm to the suffixes that only it uses; BOFT shares those of diag-OFT, with one axis more."""

COMPANIONS = (FULL,)
"""Algorithms that may stand beside another in one module: `diff_b` is how trainers save a trained bias."""

SCALARS = ("alpha", "scale", "scalar", "on_input")
SHARED = ("alpha", "scale", "scalar", DORA_SCALE, RESCALE)
"""Suffixes that several algorithms use."""

SPELLINGS: dict[str, str] = {
    "lora_B.weight": UP,
    "lora_A.weight": DOWN,
    "lora_B": UP,
    "lora_A": DOWN,
    "lora.up.weight": UP,
    "lora.down.weight": DOWN,
    "lora_linear_layer.up.weight": UP,
    "lora_linear_layer.down.weight": DOWN,
    "lora_magnitude_vector.weight": MAGNITUDE,
}

ALGORITHM_OF = {suffix: algorithm for algorithm, suffixes in ALGORITHMS.items() for suffix in suffixes}

_CANONICAL = {**{suffix: suffix for suffix in (*ALGORITHM_OF, *SHARED)}, **SPELLINGS}
_MOST_PARTS = max(suffix.count(".") + 1 for suffix in _CANONICAL)

_NAMED = re.compile(
    r"(?P<head>.*\.(?:lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector))\.[^.]+(?P<tail>(?:\.weight|\.bias)?)"
)
"""PEFT's training state has the adapter's name in every key: `lora_A.default.weight`."""

_JOINED = re.compile(r"(?P<module>.+)_lora\.(?P<half>up|down)\.weight")
"""Attention processors of diffusers before 0.22: `attn1.processor.to_q_lora.up.weight`."""


def split_key(key: str) -> tuple[str, str] | None:
    """Module and canonical suffix of a tensor's name; None where no known suffix ends it."""
    joined = _JOINED.fullmatch(key)
    if joined is not None:
        return joined["module"], SPELLINGS[f"lora.{joined['half']}.weight"]
    split = _split(key)
    if split is None or split[1] == "weight":
        named = _NAMED.fullmatch(key)
        return _split(named["head"] + named["tail"]) if named else split
    return split


def _split(key: str) -> tuple[str, str] | None:
    """Longest suffix first: `lora_A.weight` before the `weight` of (IA)3."""
    head, *parts = key.rsplit(".", _MOST_PARTS)
    for start in range(len(parts)):
        suffix = ".".join(parts[start:])
        if suffix in _CANONICAL:
            return ".".join((head, *parts[:start])), _CANONICAL[suffix]
    return None
