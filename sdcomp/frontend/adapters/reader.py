"""Opens adapter files: which modules they adapt, by which algorithm, with which tensors; factors stay unread.

Keys are `<module>.<suffix>`. Suffixes say the algorithm (LyCORIS, sd-scripts and diffusers write them);
module names are matched elsewhere (`aliases`), never parsed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from types import TracebackType

from sdcomp.errors import AdapterError
from sdcomp.frontend.safetensors import SafetensorsFile, TensorEntry, quoted
from sdcomp.ir.types import DType, TensorType

LOKR = "LoKr"

ALGORITHMS: dict[str, tuple[str, ...]] = {
    LOKR: ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t1", "lokr_t2"),
    "LoRA": (
        *("lora_up.weight", "lora_down.weight", "lora_mid.weight", "lora_A.weight", "lora_B.weight"),
        *("lora.up.weight", "lora.down.weight"),
        *("lora_linear_layer.up.weight", "lora_linear_layer.down.weight"),
    ),
    "LoHa": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    "(IA)3": ("on_input",),
    "full difference": ("diff", "diff_b"),
    "norm difference": ("w_norm", "b_norm"),
    "GLoRA": ("a1.weight", "a2.weight", "b1.weight", "b2.weight"),
    "OFT": ("oft_blocks", "oft_diag"),
}
"""Algorithm to the suffixes that only it uses."""

SCALARS = ("alpha", "scale", "scalar")
SHARED = (*SCALARS, "dora_scale")
"""Suffixes that several algorithms use."""

TRAINING = "._lycoris_"
"""Marks keys that LyCORIS 4 writes to resume training; the factors beside them have `scalar` folded in."""

PEFT = "base_model.model."

_ALGORITHM_OF = {suffix: algorithm for algorithm, suffixes in ALGORITHMS.items() for suffix in suffixes}
_SUFFIXES = frozenset((*_ALGORITHM_OF, *SHARED))
_MOST_PARTS = max(suffix.count(".") + 1 for suffix in _SUFFIXES)
_LISTED = 10
_FLOATS = ("F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2")


@dataclass(frozen=True)
class Group:
    """The tensors of one adapted module: types of the factors, values of the scalars, both by suffix."""

    path: Path
    module: str
    algorithm: str
    factors: Mapping[str, TensorType]
    scalars: Mapping[str, float]

    def key(self, suffix: str) -> str:
        """The tensor's name in the file."""
        return f"{self.module}.{suffix}"

    def error(self, reason: str, suffix: str = "") -> AdapterError:
        """An error about this module, or about one of its tensors."""
        return AdapterError(f"{self.path}: {quoted(self.key(suffix) if suffix else self.module)}: {reason}")


@dataclass(frozen=True)
class Adapter:
    """An open adapter; `strength` multiplies its effect on the UNet, `text_strength` on the text encoder."""

    file: SafetensorsFile
    strength: float
    text_strength: float
    groups: tuple[Group, ...]

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> "Adapter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def adapter_id(index: int) -> str:
    """The `file` of weight nodes that belong to the adapter given at this place, from 0."""
    return f"adapter{index}"


def open_adapter(path: Path | str, strength: float = 1.0, te_strength: float | None = None) -> Adapter:
    """Opens an adapter, its tensors grouped by module. `te_strength` is the text encoder's, else `strength`.

    Raises LoadError for a damaged file, AdapterError for tensors that belong to no known format, for a module
    of two algorithms, for an empty tensor, and for a strength that is not finite.
    """
    strengths = strength, strength if te_strength is None else te_strength
    if not all(map(isfinite, strengths)):
        raise AdapterError(
            f"{path}: strength must be a finite number, got {' and '.join(map(str, strengths))}"
        )
    file = SafetensorsFile(path)
    try:
        return Adapter(file, *strengths, _groups(file))
    except BaseException:
        file.close()
        raise


def listed(names: list[str]) -> str:
    """The first ten names, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(quoted, names[:_LISTED])) + more


def _groups(file: SafetensorsFile) -> tuple[Group, ...]:
    modules: dict[str, dict[str, TensorEntry]] = {}
    unknown = []
    for key, entry in file.entries.items():
        suffix = _suffix(key)
        if suffix:
            modules.setdefault(key.removesuffix(f".{suffix}"), {})[suffix] = entry
        elif TRAINING not in key:
            unknown.append(key)
    _refuse_other_files(file, modules, unknown)
    folded = any(TRAINING in key for key in file.entries)
    return tuple(_group(file, module, entries, folded) for module, entries in modules.items())


def _suffix(key: str) -> str | None:
    """The longest known suffix of a key."""
    parts = key.rsplit(".", _MOST_PARTS)[1:]
    candidates = (".".join(parts[start:]) for start in range(len(parts)))
    return next((suffix for suffix in candidates if suffix in _SUFFIXES), None)


def _refuse_other_files(
    file: SafetensorsFile, modules: Mapping[str, Mapping[str, TensorEntry]], unknown: list[str]
) -> None:
    if not modules:
        raise AdapterError(f"{file.path}: no tensor of it belongs to an adapter; is it a checkpoint?")
    if unknown:
        count = f"{len(unknown)} tensors are not part of any known adapter format"
        raise AdapterError(f"{file.path}: {count}: {listed(unknown)}")
    peft = next((module for module in modules if PEFT in module), None)
    if peft is not None:
        raise AdapterError(
            f"{file.path}: {quoted(peft)}: PEFT's adapter format is not supported by this version"
        )


def _group(file: SafetensorsFile, module: str, entries: Mapping[str, TensorEntry], folded: bool) -> Group:
    algorithms = list(dict.fromkeys(_ALGORITHM_OF[suffix] for suffix in entries if suffix in _ALGORITHM_OF))
    group = Group(file.path, module, " and ".join(algorithms), {}, {})
    if not algorithms:
        raise group.error(f"has {', '.join(entries)} but no factors; the file is incomplete")
    if len(algorithms) > 1:
        raise group.error(f"has tensors of two algorithms, {group.algorithm}")
    factors = {
        suffix: _factor(group, suffix, entry) for suffix, entry in entries.items() if suffix not in SCALARS
    }
    scalars = {
        suffix: _scalar(group, suffix, file, entry)
        for suffix, entry in entries.items()
        if suffix in SCALARS and not (folded and suffix == "scalar")
    }
    return replace(group, factors=factors, scalars=scalars)


def _factor(group: Group, suffix: str, entry: TensorEntry) -> TensorType:
    if entry.dtype not in _FLOATS:
        raise group.error(f"must be of floating point, is {entry.dtype}", suffix)
    if 0 in entry.shape:
        raise group.error(f"is empty: its shape is {list(entry.shape)}", suffix)
    return TensorType(entry.shape, DType.F16 if entry.dtype == "F16" else DType.F32)


def _scalar(group: Group, suffix: str, file: SafetensorsFile, entry: TensorEntry) -> float:
    if any(side != 1 for side in entry.shape):
        raise group.error(f"must be one number, its shape is {list(entry.shape)}", suffix)
    return float(file.read(entry.name).reshape(()))
