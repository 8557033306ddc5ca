"""Targets as data: what a kernel may know about the machine it is emitted for.

Kernels are written once, in terms of vector lanes, registers and cache sizes; nothing in them asks which
machine it is.
"""

import platform
from dataclasses import dataclass
from pathlib import Path

from sdcomp.errors import UsageError


@dataclass(frozen=True)
class Target:
    """One instruction set. Cache sizes are bytes per core; they steer tile sizes, never correctness."""

    name: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    lanes: int
    registers: int
    panel_vectors: int
    l1_bytes: int
    l2_bytes: int

    @property
    def feature_string(self) -> str:
        """As LLVM's target machine takes it."""
        return ",".join(f"+{feature}" for feature in self.features)

    @property
    def scales_by_powers(self) -> bool:
        """Whether it has instructions for x - floor(x) and for x 2^floor(y) on whole registers (VREDUCEPS and
        VSCALEFPS).
        """
        return "avx512dq" in self.features

    def tile_rows(self, vectors: int) -> int:
        """Rows of a micro-kernel `vectors` wide: accumulators, one panel row and one broadcast fill the
        register file.
        """
        return min((self.registers - vectors - 1) // vectors, 2 * self.registers // 3 + 7)


_X86_64_V3 = ("avx", "avx2", "fma", "f16c", "bmi", "bmi2", "popcnt", "sse4.2")
_X86_64_V4 = (*_X86_64_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_KIB = 1024

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            "x86-64-v3", "x86_64-unknown-linux-gnu", "haswell", _X86_64_V3, 8, 16, 2, 32 * _KIB, 512 * _KIB
        ),
        Target(
            "x86-64-v4",
            "x86_64-unknown-linux-gnu",
            "skylake-avx512",
            _X86_64_V4,
            16,
            32,
            4,
            48 * _KIB,
            1024 * _KIB,
        ),
        Target("aarch64", "aarch64-unknown-linux-gnu", "generic", ("neon",), 4, 32, 4, 64 * _KIB, 512 * _KIB),
    )
}


DEFAULT_TARGET = "x86-64-v3"
"""For what has to name one and was not told."""


def resolve(name: str) -> Target:
    """The target called `name`; `native` is the widest that this machine runs. Raises UsageError."""
    if name == "native":
        return _native()
    if name not in TARGETS:
        raise UsageError(f"--target {name}: unknown; known are native, {', '.join(TARGETS)}")
    return TARGETS[name]


def _native() -> Target:
    if platform.machine() in ("aarch64", "arm64"):
        return TARGETS["aarch64"]
    usable = [target for target in TARGETS.values() if is_runnable(target)]
    if not usable:
        needed = ", ".join(_X86_64_V3)
        raise UsageError(
            f"--target native: this {platform.machine()} CPU lacks what the smallest target needs ({needed})"
        )
    return max(usable, key=lambda target: target.lanes)


def is_runnable(target: Target) -> bool:
    """Whether this machine has the target's instructions."""
    family = "aarch64" if platform.machine() in ("aarch64", "arm64") else platform.machine()
    return target.triple.startswith(family) and host_features().issuperset(target.features)


def host_features() -> frozenset[str]:
    """This machine's instruction set extensions under LLVM's names."""
    import llvmlite.binding as llvm

    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


def host_name() -> str:
    """The processor's model name, for people."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
