"""Opens adapter files: which modules they adapt, by which algorithm, with which tensors; factors stay unread.

Keys are `<module>.<suffix>`. Suffixes say the algorithm (`suffixes`); module names are matched elsewhere
(`aliases`), never parsed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from types import TracebackType

import numpy as np

from sdcomp.errors import AdapterError
from sdcomp.frontend.adapters import peft
from sdcomp.frontend.adapters.facts import trainer_facts
from sdcomp.frontend.adapters.group import Group
from sdcomp.frontend.adapters.suffixes import (
    ALGORITHM_OF,
    BOFT,
    COMPANIONS,
    DIAG_OFT,
    OFT_BLOCKS,
    SCALARS,
    split_key,
)
from sdcomp.frontend.safetensors import SafetensorsFile, TensorEntry, quoted
from sdcomp.ir.types import Array, DType, TensorType

TRAINING = "._lycoris_"
"""Marks keys that LyCORIS 4 writes to resume training; the factors beside them have `scalar` folded in."""

MAX_MODULES = 20_000
"""The largest known adapters, of models larger than any read here, have a few thousand."""

_LISTED = 10
_FLOATS = ("F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2")

Entries = Mapping[str, TensorEntry]
"""Tensors by canonical suffix."""


@dataclass(frozen=True)
class Adapter:
    """An open adapter; `strength` multiplies its effect on the UNet, `text_strength` on the text encoder.

    `configs` are PEFT's, by component (see `peft`). `is_live`: both strengths are only defaults, and every
    run may set its own.
    """

    file: SafetensorsFile
    strength: float
    text_strength: float
    groups: tuple[Group, ...]
    configs: Mapping[str, peft.PeftConfig]
    is_live: bool = False

    @property
    def name(self) -> str:
        """What a run calls a live adapter: the file's name without folder and suffix."""
        return self.file.path.stem

    def read(self, name: str) -> Array:
        """A factor by its name in the file, as `SafetensorsFile.read`; AdapterError for NaN or infinity."""
        values = self.file.read(name)
        if not (np.isfinite(values.min()) and np.isfinite(values.max())):
            where = f"{self.file.path}: tensor {quoted(name)}"
            raise AdapterError(f"{where}: contains NaN or infinity; the adapter is damaged")
        return values

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


def open_adapter(
    path: Path | str, strength: float = 1.0, te_strength: float | None = None, is_live: bool = False
) -> Adapter:
    """Opens an adapter, its tensors grouped by module. `te_strength` is the text encoder's, else `strength`.

    Raises LoadError for a damaged file, AdapterError for tensors that belong to no known format, for a module
    of two algorithms, for an empty tensor, for more modules than any adapter has, and for a strength that is
    not finite.
    """
    strengths = strength, strength if te_strength is None else te_strength
    if not all(map(isfinite, strengths)):
        raise AdapterError(
            f"{path}: strength must be a finite number, got {' and '.join(map(str, strengths))}"
        )
    file = SafetensorsFile(path)
    try:
        modules = _modules(file)
        is_peft = any(peft.PREFIX in module for module in modules)
        configs = peft.read_configs(file.path, file.metadata, is_peft)
        return Adapter(file, *strengths, tuple(_groups(file, modules, configs)), configs, is_live)
    except BaseException:
        file.close()
        raise


def listed(names: list[str]) -> str:
    """The first ten names, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(quoted, names[:_LISTED])) + more


def _modules(file: SafetensorsFile) -> dict[str, dict[str, TensorEntry]]:
    modules: dict[str, dict[str, TensorEntry]] = {}
    unknown = []
    for key, entry in file.entries.items():
        split = _split(file, key)
        if split is None:
            unknown += [] if TRAINING in key else [key]
            continue
        module, suffix = split
        other = modules.setdefault(module, {}).setdefault(suffix, entry)
        if other is not entry:
            raise AdapterError(f"{file.path}: {quoted(key)}: is the same tensor as {quoted(other.name)}")
    if not modules:
        raise AdapterError(f"{file.path}: no tensor of it belongs to an adapter; is it a checkpoint?")
    if len(modules) > MAX_MODULES:
        raise AdapterError(f"{file.path}: adapts {len(modules)} modules, at most {MAX_MODULES} are read")
    if unknown:
        count = f"{len(unknown)} tensors are not part of any known adapter format"
        raise AdapterError(f"{file.path}: {count}: {listed(unknown)}")
    return modules


def _split(file: SafetensorsFile, key: str) -> tuple[str, str] | None:
    """Module and suffix. A bare `weight` is (IA)3's only beside `on_input`: checkpoints have many."""
    split = split_key(key)
    if split is None or (split[1] == "weight" and f"{split[0]}.on_input" not in file.entries):
        return None
    return split


def _groups(
    file: SafetensorsFile,
    modules: Mapping[str, Entries],
    configs: Mapping[str, peft.PeftConfig],
) -> Iterator[Group]:
    is_folded = any(TRAINING in key for key in file.entries)
    facts = trainer_facts(file.metadata)
    for module, entries in modules.items():
        config = peft.config_of(module, configs)
        module_facts = facts if config is None else config.facts
        scale = None if config is None else config.scale(peft.bare(module))
        for algorithm, owned in _by_algorithm(file.path, module, entries).items():
            group = _group(file, Group(file.path, module, algorithm, facts=module_facts), owned, is_folded)
            yield _scaled(group, scale)


def _scaled(group: Group, scale: float | None) -> Group:
    """PEFT's scale takes the place of alpha over rank; sd-scripts' alpha in the same file outweighs it."""
    if scale is None or "alpha" in group.scalars:
        return group
    return replace(group, scalars={**group.scalars, "scale": scale})


def _by_algorithm(path: Path, module: str, entries: Entries) -> dict[str, dict[str, TensorEntry]]:
    """A module's tensors by algorithm. Those that several use belong to the one that is no companion."""
    algorithms = list(dict.fromkeys(_algorithm(*item) for item in entries.items() if item[0] in ALGORITHM_OF))
    main = [algorithm for algorithm in algorithms if algorithm not in COMPANIONS] or algorithms
    group = Group(path, module, " and ".join(main), keys={s: entry.name for s, entry in entries.items()})
    if not main:
        raise group.error(f"has {', '.join(entries)} but no factors; the file is incomplete")
    if len(main) > 1:
        raise group.error(f"has tensors of two algorithms, {group.algorithm}")
    owned: dict[str, dict[str, TensorEntry]] = {algorithm: {} for algorithm in algorithms}
    for suffix, entry in entries.items():
        owner = _algorithm(suffix, entry) if suffix in ALGORITHM_OF else main[0]
        owned[owner][suffix] = entry
    return owned


def _algorithm(suffix: str, entry: TensorEntry) -> str:
    algorithm = ALGORITHM_OF[suffix]
    is_boft = algorithm == DIAG_OFT and suffix == OFT_BLOCKS and len(entry.shape) == 4
    return BOFT if is_boft else algorithm


def _group(file: SafetensorsFile, group: Group, entries: Entries, is_folded: bool) -> Group:
    group = replace(group, keys={suffix: entry.name for suffix, entry in entries.items()})
    factors = {
        suffix: _factor(group, suffix, entry) for suffix, entry in entries.items() if suffix not in SCALARS
    }
    scalars = {
        suffix: _scalar(group, suffix, file, entry)
        for suffix, entry in entries.items()
        if suffix in SCALARS and not (is_folded and suffix == "scalar")
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
