"""The C sources of the runtime: what they export, compile for, and say about the CPU."""

import shutil
import subprocess
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from sdcomp.runtime import abi
from sdcomp.runtime.sources import HEADER_DIRECTORY, runtime_sources
from tests.runtime.artifacts import zig


def test_only_the_interface_is_exported(artifact: Path) -> None:
    tool = shutil.which("nm")
    if tool is None:
        pytest.skip("nm is not installed")
    listing = subprocess.run(
        [tool, "-D", "--defined-only", artifact], capture_output=True, text=True, check=True
    )
    exported = {line.split()[-1].split("@")[0] for line in listing.stdout.splitlines()}
    assert {name for name in exported if not name.startswith("_")} == set(abi._PROTOTYPES)


def test_c_example_runs(artifact: Path, tmp_path: Path) -> None:
    """x = 1, scale = 1 and steps = 0, so that y = 1."""
    example = Path(__file__).parents[2] / "examples" / "c" / "run_unet.c"
    zig("-Wall", "-Wextra", "-Werror", example, "-ldl", "-o", tmp_path / "run_unet")
    command = [tmp_path / "run_unet", artifact]
    done = subprocess.run([*command, "prepare", "apply"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "y = 1 1 1 1" in done.stdout
    alone = subprocess.run([*command, "apply"], capture_output=True, text=True)
    assert alone.returncode == 1
    assert "run that one in this context first" in alone.stderr


def test_sources_compile_for_another_cpu(tmp_path: Path) -> None:
    for source in runtime_sources():
        zig("-target", "aarch64-linux-gnu", "-Wall", "-Werror", "-c", source, "-o", tmp_path / "object.o")


def test_cpu_features_are_those_that_llvm_sees(tmp_path: Path) -> None:
    (tmp_path / "features.c").write_text(
        '#include "cpu.h"\n#include <stdio.h>\n'
        "int main(void) {\n"
        "  for (size_t i = 0; cpu_feature_name(i) != NULL; i++)\n"
        '    printf("%s %d\\n", cpu_feature_name(i), cpu_has_feature(cpu_feature_name(i)));\n'
        "}\n"
    )
    zig(tmp_path / "features.c", HEADER_DIRECTORY / "cpu.c", "-o", tmp_path / "features")
    listing = subprocess.run([tmp_path / "features"], capture_output=True, text=True, check=True).stdout
    found = {line.split()[0]: line.split()[1] == "1" for line in listing.splitlines()}
    host = llvm.get_host_cpu_features()
    compared = {name: offered for name, offered in found.items() if name in host}
    assert compared == {name: bool(host[name]) for name in compared}
    assert len(compared) >= 0.7 * len(found)
