"""From llvmlite IR to machine code."""

from functools import cache
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ir

from sdcomp.codegen.targets import Target
from sdcomp.errors import CodegenError


def new_module(name: str, target: Target) -> Any:
    """An empty llvmlite module for the target."""
    module = ir.Module(name)
    module.triple = target.triple
    module.data_layout = str(machine(target).target_data)
    return module


@cache
def machine(target: Target) -> Any:
    """LLVM's target machine. The code model must be said: llvmlite's default for 64 bits is `large`, wrong
    in a library.
    """
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.feature_string, opt=3, reloc="pic", codemodel="small"
    )


def optimise(module: Any, target: Target) -> Any:
    """The parsed, verified and optimised module. Raises CodegenError with LLVM's words."""
    try:
        parsed = llvm.parse_assembly(str(module))
        parsed.verify()
    except RuntimeError as error:
        raise CodegenError(f"{module.name}: LLVM rejects the emitted code: {error}") from None
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    passes = llvm.create_pass_builder(machine(target), options)
    passes.getModulePassManager().run(parsed, passes)
    return parsed


def emit_object(module: Any, target: Target) -> bytes:
    """A position-independent object file."""
    return bytes(machine(target).emit_object(optimise(module, target)))


def emit_assembly(module: Any, target: Target) -> str:
    return str(machine(target).emit_assembly(optimise(module, target)))
