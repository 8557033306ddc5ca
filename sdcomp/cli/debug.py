"""What SDCOMP_DEBUG prints, on stderr: one ladder, each level with all below it (docs/environment.md)."""

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from sdcomp.errors import UsageError

if TYPE_CHECKING:
    from sdcomp.codegen.artifact import Inspect
    from sdcomp.ir.graph import Module

CHOICES, TIMES, PASSES, LLVM, ASSEMBLY = range(1, 6)


def debug_level() -> int:
    """SDCOMP_DEBUG as a number, 0 where it is not set. Raises UsageError."""
    text = os.environ.get("SDCOMP_DEBUG") or "0"
    if text not in map(str, range(ASSEMBLY + 1)):
        raise UsageError(f"SDCOMP_DEBUG={text}: expected 0 to {ASSEMBLY}")
    return int(text)


def say(text: str) -> None:
    """Debugging output."""
    print(text, file=sys.stderr)


class PassObserver:
    """Called after every pass of a build: prints its time at level 2, the IR that it made at level 3."""

    def __init__(self, level: int) -> None:
        self._level = level
        self._last = time.perf_counter()

    def __call__(self, name: str, module: "Module") -> None:
        now = time.perf_counter()
        if self._level >= TIMES:
            nodes = sum(len(graph.nodes()) for graph in module)
            say(
                f"pass {name}: {1000 * (now - self._last):.0f} ms, {len(module.graphs)} graphs, {nodes} nodes"
            )
        if self._level >= PASSES:
            from sdcomp.ir.text import print_module

            say(f"# after {name}\n{print_module(module)}")
        self._last = time.perf_counter()


def kernel_observer(level: int) -> "Inspect | None":
    """What prints kernels before they are compiled: LLVM IR at level 4, and assembly at level 5."""
    if level < LLVM:
        return None
    from sdcomp.codegen.module import print_assembly, print_llvm

    printers = (print_llvm, print_assembly) if level >= ASSEMBLY else (print_llvm,)
    return lambda symbols, target: say("\n".join(show(symbols, target) for show in printers))


def describe_choices(manifest: dict[str, Any]) -> str:
    """Level 1: for whom the artifact is, which kernels each of its programs uses, and how live adapters are
    evaluated.
    """
    from sdcomp.cli.live import evaluations
    from sdcomp.codegen.targets import TARGETS, host_name

    target = TARGETS[manifest["target"]]
    lines = [
        f"target {target.name} ({target.cpu}): {', '.join(target.features)}",
        f"host {host_name()}",
        f"weights {manifest['weights']}",
    ]
    lines += [f"program {program['name']}: {kernel_counts(program)}" for program in manifest["programs"]]
    lines.append(f"costs {manifest['costs']['source']}, of {manifest['costs']['cpu']}")
    lines += map(_convolution, manifest["convolutions"])
    lines += [
        f"live {e.graph} {e.weight}: {e.order}, at most {e.multiplies} MAC" for e in evaluations(manifest)
    ]
    return "\n".join(lines)


def _convolution(choice: dict[str, Any]) -> str:
    """`convolution vae_decoder@512x512 conv_in 1x64x64, 4 to 512: direct, the least cost (direct 2 ms, ...)`

    Estimates are for one thread.
    """
    *extents, columns = choice["shape"]
    shape = f"{'x'.join(map(str, extents))}, {choice['depth']} to {columns}" + ", 2x" * choice["upsampled"]
    estimates = ", ".join(f"{name} {ms:g} ms" for name, ms in choice["milliseconds"].items())
    chosen = f"{choice['algorithm']}, {choice['reason']}" + f" ({estimates})" * bool(estimates)
    return f"convolution {choice['program']} {choice['layer']} {shape}: {chosen}"


def kernel_counts(program: dict[str, Any]) -> str:
    """`attention 22, contraction 145` of a program of a manifest, most frequent first."""
    kinds = sorted(program["kernels"].items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{kind} {count}" for kind, count in kinds)
