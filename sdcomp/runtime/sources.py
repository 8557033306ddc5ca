"""The C sources of the runtime that is compiled into every artifact, and how to compile them."""

from pathlib import Path

#: Holds `sdcomp.h` (public) and `plan.h` (the tables that the compiler writes).
HEADER_DIRECTORY = Path(__file__).parent / "native"

#: Flags of gcc, clang and `zig cc`. zig needs an explicit `-target` besides: without one it compiles for the
#: CPU at hand, and the code that checks the CPU could itself fault elsewhere. Hidden visibility leaves only
#: the functions of `sdcomp.h` exported.
COMPILE_FLAGS = ("-std=c11", "-O2", "-fPIC", "-fvisibility=hidden", "-pthread")

#: Libraries of the final link: threads, and dladdr where the C library keeps it apart.
LINK_FLAGS = ("-pthread", "-ldl")


def runtime_sources() -> tuple[Path, ...]:
    """The source files of the runtime, in a fixed order."""
    return tuple(sorted(HEADER_DIRECTORY.glob("*.c")))
