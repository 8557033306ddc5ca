"""A Stable Diffusion checkpoint as a lazy mapping of canonical names to tensors."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from sdcomp.errors import LoadError
from sdcomp.frontend.names import VAE, resolve_names
from sdcomp.frontend.safetensors import SafetensorsFile, TensorEntry, quoted
from sdcomp.ir.types import Array, DType, Shape

FLOATS = frozenset({"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"})

SCALE_SUFFIXES = (".scale_weight", ".weight_scale", ".comfy_quant", ".qweight", ".absmax")
"""Tensors beside a weight that is only a weight after it was multiplied by them."""

VAE_ATTENTION = tuple(
    f"{VAE}{side}.mid.attn_1.{name}.weight"
    for side in ("encoder", "decoder")
    for name in ("q", "k", "v", "proj_out")
)
"""1x1 convolutions that diffusers stores as linear layers."""

FINITE_BLOCK = 1 << 18

ONE_FILE = "sdcomp reads one .safetensors file that holds the whole model"


@dataclass(frozen=True)
class TensorInfo:
    """Shape in canonical layout, the type that `Checkpoint.read` returns, and the type stored in the file."""

    shape: Shape
    dtype: DType
    stored: str


class Checkpoint:
    """An open checkpoint. Use it as a context manager, or call `close`.

    `tensors` has every tensor with a canonical name; `ignored` and `unknown` are the other names in the file.
    """

    def __init__(self, file: SafetensorsFile) -> None:
        names = resolve_names(file.entries)
        self._file = file
        self._stored = names.stored
        _refuse_quantised(file)
        for canonical, first, second in names.clashes:
            both = f"{quoted(first)} and {quoted(second)}"
            raise LoadError(f"{file.path}: {both} are both the tensor {quoted(canonical)}; remove one")
        self.ignored = names.ignored
        self.unknown = names.unknown
        self.tensors: Mapping[str, TensorInfo] = {
            canonical: _info(file, canonical, file.entries[name]) for canonical, name in names.stored.items()
        }

    @classmethod
    def open(cls, path: Path | str) -> "Checkpoint":
        """Open a file and name its tensors; LoadError if it is not a sound, unquantised safetensors file."""
        _refuse_index(Path(path))
        file = SafetensorsFile(path)
        try:
            return cls(file)
        except BaseException:
            file.close()
            raise

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._file.metadata

    def read(self, name: str) -> Array:
        """The tensor of this canonical name: float16 or float32, shaped as `tensors[name]` says, owned.

        Raises LoadError if it has a NaN or an infinity, KeyError if there is no such tensor.
        """
        values = self._file.read(self._stored[name])
        if not _finite(values):
            where = f"{self.path}: tensor {quoted(self._stored[name])}"
            raise LoadError(f"{where}: contains NaN or infinity; the checkpoint is damaged")
        return values.reshape(self.tensors[name].shape)

    def stored_bytes(self) -> dict[str, tuple[int, int]]:
        """For each stored dtype, how many of `tensors` have it, and how many bytes they take in the file."""
        entries = [self._file.entries[name] for name in self._stored.values()]
        counts = Counter(entry.dtype for entry in entries)
        sizes: Counter[str] = Counter()
        for entry in entries:
            sizes[entry.dtype] += entry.end - entry.begin
        return {dtype: (counts[dtype], sizes[dtype]) for dtype in counts}

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _refuse_index(path: Path) -> None:
    if path.name.endswith(".safetensors.index.json"):
        raise LoadError(f"{path}: is the index of a sharded diffusers model; {ONE_FILE}")
    if path.is_dir() and (path / "model_index.json").exists():
        raise LoadError(f"{path}: is a diffusers model folder; {ONE_FILE}")


def _refuse_quantised(file: SafetensorsFile) -> None:
    for name in file.entries:
        if name.endswith(SCALE_SUFFIXES) or name == "scaled_fp8":
            raise LoadError(
                f"{file.path}: tensor {quoted(name)} shows that the weights are quantised with scales; "
                "give the f16, bf16 or f32 version of this checkpoint"
            )


def _info(file: SafetensorsFile, canonical: str, entry: TensorEntry) -> TensorInfo:
    if entry.dtype not in FLOATS:
        raise LoadError(
            f"{file.path}: tensor {quoted(entry.name)} is stored as {entry.dtype}, not as floating point; "
            "give the f16, bf16 or f32 version of this checkpoint"
        )
    linear_attention = canonical in VAE_ATTENTION and len(entry.shape) == 2
    shape = (*entry.shape, 1, 1) if linear_attention else entry.shape
    return TensorInfo(shape, DType.F16 if entry.dtype == "F16" else DType.F32, entry.dtype)


def _finite(values: Array) -> bool:
    """Whether no element is NaN or infinite, block by block so that the mask stays small."""
    flat = values.reshape(-1)
    blocks = (flat[start : start + FINITE_BLOCK] for start in range(0, flat.size, FINITE_BLOCK))
    return all(bool(np.isfinite(block).all()) for block in blocks)
