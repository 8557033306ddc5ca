"""Reads what the compiler emitted: functions, and the loops in them, as lines of assembly."""

import re

from sdcomp.codegen.compile import emit_assembly, new_module
from sdcomp.codegen.kernels.base import Kernel
from sdcomp.codegen.targets import Target

_FUSED = {"x86_64": re.compile(r"vfn?m(add|sub)\d+ps\b.*%[yz]mm"), "aarch64": re.compile(r"fmla\tv\d+\.4s")}
_STACK = {"x86_64": re.compile(r"\(%r[sb]p"), "aarch64": re.compile(r"\[(sp|x29)\b")}


def assembly(kernel: Kernel, target: Target) -> str:
    """Of one kernel, with the functions that it calls."""
    module = new_module("one", target)
    kernel.emit(module, "kernel", target)
    return emit_assembly(module, target)


def function(text: str, symbol: str) -> list[str]:
    """The lines between a function's label and its end."""
    lines = text.splitlines()
    start = lines.index(f"{symbol}:")
    end = next(n for n in range(start, len(lines)) if lines[n].startswith(".Lfunc_end"))
    return lines[start + 1 : end]


def inner_loops(lines: list[str]) -> list[list[str]]:
    """Bodies of the loops that hold no other label: from a label to the jump back to it."""
    loops: list[list[str]] = []
    label, body = "", []
    for line in lines:
        body.append(line)
        if line.endswith(":"):
            label, body = line.rstrip(":"), []
        elif label and re.search(rf"\s(j\w+|b\.\w+|cbn?z.*,)\s+{re.escape(label)}$", line):
            loops.append(body)
    return loops


def fused(lines: list[str], target: Target) -> int:
    """Vector instructions that multiply and add with one rounding."""
    return sum(bool(_FUSED[_architecture(target)].search(line)) for line in lines)


def touches_stack(lines: list[str], target: Target) -> list[str]:
    """The lines that read or write the stack."""
    return [line for line in lines if _STACK[_architecture(target)].search(line)]


def _architecture(target: Target) -> str:
    return target.triple.partition("-")[0]
