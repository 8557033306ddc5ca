"""What an adapter file says of one module."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path

from sdcomp.errors import AdapterError
from sdcomp.frontend.safetensors import quoted
from sdcomp.ir.types import TensorType


@dataclass(frozen=True)
class Facts:
    """What the file's metadata or PEFT's configuration say of all modules, as far as the maths needs it.

    `dim` and `user_alphas` are what the user gave to sd-scripts or LyCORIS (ss_network_dim and _alpha,
    conv_alpha). The other fields are PEFT's: `neumann_terms` is 0 for an exact Cayley transform, `coft_eps`
    is None without constraint, `feedforward` the modules whose input (IA)3 scales.
    """

    dim: int | None = None
    user_alphas: tuple[float, ...] = ()
    rs_lora: bool = False
    neumann_terms: int = 5
    coft_eps: float | None = None
    feedforward: tuple[str, ...] | None = None

    def is_user_alpha(self, alpha: float, tolerance: float) -> bool:
        return any(isclose(alpha, given, rel_tol=tolerance) for given in self.user_alphas)


@dataclass(frozen=True)
class Group:
    """The tensors of one adapted module that one algorithm uses: types of factors and values of scalars.

    Both are by canonical suffix (see `suffixes`); `keys` has the tensors' names in the file.
    """

    path: Path
    module: str
    algorithm: str
    factors: Mapping[str, TensorType] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    facts: Facts = Facts()

    def key(self, suffix: str) -> str:
        """The tensor's name in the file."""
        return self.keys.get(suffix, f"{self.module}.{suffix}")

    def error(self, reason: str, suffix: str = "") -> AdapterError:
        """An error about this module, or about one of its tensors."""
        return AdapterError(f"{self.path}: {quoted(self.key(suffix) if suffix else self.module)}: {reason}")
