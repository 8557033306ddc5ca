"""The kernels that networks become, in golden files: a change of fusion shows as a change of these lists.

After a change that is meant, `pytest --update-golden` records the new lists; they are reviewed like code.
"""

import pytest

from sdcomp.codegen.module import name_kernels, print_assembly, print_llvm
from sdcomp.codegen.plan import Program
from sdcomp.codegen.targets import TARGETS
from tests.checkpoints import small_config
from tests.codegen.networks import SD15, kinds, listing, programs
from tests.golden.compare import Golden

TARGET = TARGETS["x86-64-v3"]
TINY = small_config(
    unet={"res_blocks": 1}, text={"layers": 1}, vae={"encoder_res_blocks": 1, "decoder_res_blocks": 1}
)
LISTED = (
    "text",
    "unet.prompt@64x64x2",
    "unet.step@64x64x2",
    "unet@64x64x2",
    "vae_decoder@64x64",
    "vae_encoder@64x64",
)


@pytest.fixture(scope="module")
def tiny() -> dict[str, Program]:
    return {program.name: program for program in programs(TINY, (64, 64), TARGET)}


@pytest.mark.parametrize("name", LISTED)
def test_calls(tiny: dict[str, Program], golden: Golden, name: str) -> None:
    golden.check(f"calls-{name.replace('@', '-')}", listing(tiny[name]))


def test_number_of_kernels_at_full_size(golden: Golden) -> None:
    """Stable Diffusion 1.5 at 512x512."""
    golden.check("kernel_counts", "".join(f"{kinds(p)}\n" for p in programs(SD15, (512, 512), TARGET)))


def test_every_call_names_the_layer_it_computes(tiny: dict[str, Program]) -> None:
    """Profiles and listings go by these labels."""
    products = [c for p in tiny.values() for c in p.calls if c.kernel.kind in ("contraction", "attention")]
    assert products
    assert all("." in call.label for call in products)
    attentions = {call.label.rpartition(".")[2] for call in products if call.kernel.kind == "attention"}
    assert attentions == {"self_attn", "attn1", "attn2", "attn_1"}


def test_equal_kernels_have_one_symbol(tiny: dict[str, Program]) -> None:
    """In order of first use, so that a build is reproducible."""
    symbols = name_kernels(tiny.values())
    calls = [call for program in tiny.values() for call in program.calls]
    assert len(symbols) < len(calls)
    assert len(set(symbols.values())) == len(symbols)
    assert list(symbols) == list(dict.fromkeys(call.kernel for call in calls))


def test_printed_code_holds_every_kernel(tiny: dict[str, Program]) -> None:
    """LLVM IR as emitted, and assembly, for people; of one small program."""
    symbols = name_kernels([tiny["unet.step@64x64x2"]])
    llvm, assembly = print_llvm(symbols, TARGET), print_assembly(symbols, TARGET)
    assert all(f'define void @"{symbol}"' in llvm for symbol in symbols.values())
    assert all(f"\n{symbol}:" in assembly for symbol in symbols.values())
