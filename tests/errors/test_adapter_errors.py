"""Adapters that cannot be used: each one clear line that names the file and the key."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sdcomp.codegen.fold import fold
from sdcomp.codegen.weights import PackedWeight, Rows
from sdcomp.errors import AdapterError, LoadError
from sdcomp.frontend.adapters import match, open_adapter
from sdcomp.frontend.weights import WeightSource
from sdcomp.ir.types import DType
from tests.checkpoints import SMALL
from tests.frontend.adapter_case import Tensors
from tests.passes.graphs import weight

Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
SAME_Q = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"


def ones(*shape: int, dtype: Any = np.float32) -> Any:
    return np.ones(shape, dtype)


def lokr(module: str, w1: tuple[int, ...] = (4, 4), w2: tuple[int, ...] = (8, 8)) -> dict[str, Any]:
    return {f"{module}.lokr_w1": ones(*w1), f"{module}.lokr_w2": ones(*w2)}


def low_rank(**others: Any) -> dict[str, Any]:
    factors = {"lokr_w1": ones(4, 4), "lokr_w2_a": ones(8, 2), "lokr_w2_b": ones(2, 8), **others}
    return {f"{Q}.{suffix}": value for suffix, value in factors.items() if value is not None}


def tucker(**others: Any) -> dict[str, Any]:
    shapes = {"w1": (4, 4), "t2": (2, 2, 3, 3), "w2_a": (2, 8), "w2_b": (2, 8)} | others
    return {f"{CONV}.lokr_{name}": ones(*shape) for name, shape in shapes.items()}


def of(module: str, **shapes: tuple[int, ...]) -> dict[str, Any]:
    """Tensors of ones; `_weight` ends suffixes in `.weight`."""
    return {f"{module}.{name.replace('_weight', '.weight')}": ones(*shape) for name, shape in shapes.items()}


LOHA = {"hada_w1_a": (4, 32), "hada_w1_b": (4, 32), "hada_w2_a": (4, 32), "hada_w2_b": (4, 32)}
PEFT_CONV = "base_model.model.conv_in"
NORM = "lora_unet_conv_norm_out"


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "no adapter at all": (
        {"conv_in.weight": ones(4, 4)},
        "no tensor of it belongs to an adapter; is it a checkpoint",
    ),
    "empty file": ({}, "no tensor of it belongs to an adapter"),
    "unknown suffix": (
        lokr(Q) | {f"{Q}.lokr_w3": ones(2), "more": ones(2)},
        rf"2 tensors are not part of any known adapter format: .*'{Q}.lokr_w3'",
    ),
    "only alpha": ({f"{Q}.alpha": ones()}, f"'{Q}': has alpha but no factors; the file is incomplete"),
    "two algorithms": (
        lokr(Q) | {f"{Q}.lora_up.weight": ones(4, 4)},
        f"'{Q}': has tensors of two algorithms, LoKr and LoRA",
    ),
    "w1 without w2": (
        {f"{Q}.lokr_w1": ones(4, 4)},
        "needs either lokr_w2 or lokr_w2_a and lokr_w2_b, has neither",
    ),
    "half of w2": (low_rank(lokr_w2_b=None), "has lokr_w2_a; the file is incomplete"),
    "w1 twice": (
        lokr(Q) | {f"{Q}.lokr_w1_a": ones(4, 2), f"{Q}.lokr_w1_b": ones(2, 4)},
        "has lokr_w1, lokr_w1_a, lokr_w1_b",
    ),
    "t2 beside a whole w2": (lokr(Q) | {f"{Q}.lokr_t2": ones(2, 2, 3, 3)}, "lokr_t2': stands beside lokr_w2"),
    "t1": (lokr(Q) | {f"{Q}.lokr_t1": ones(2, 2)}, f"'{Q}.lokr_t1': no known trainer writes this tensor"),
    "DoRA of another length": (
        lokr(Q) | {f"{Q}.dora_scale": ones(31, 1)},
        rf"'{Q}.dora_scale': is \[31, 1\], which is no length per output of a weight \[32, 32\]",
    ),
    "wrong shape": (
        lokr(Q, (4, 4), (8, 9)),
        rf"'{Q}': the weight is \[32, 32\], but the factors \[4, 4\] and \[8, 9\] make \[32, 36\]",
    ),
    "same size, other sides": (lokr(Q, (2, 8), (8, 8)), r"make \[16, 64\]"),
    "kernel split between factors": (lokr(CONV, (4, 96), (8, 3)), r"\[4, 96\] and \[8, 3\] make \[32, 288\]"),
    "other kernel": (
        lokr(CONV, (4, 4), (8, 8, 9, 1)),
        r"\[8, 8, 9, 1\] is for another kernel than the weight's \[3, 3\]",
    ),
    "kernel for a linear layer": (lokr(Q, (4, 4), (8, 2, 2, 2)), r"another kernel than the weight's \[\]"),
    "axes": (lokr(Q, (4, 4), (8, 8, 1)), r"lokr_w2': must have 2 or 4 axes, its shape is \[8, 8, 1\]"),
    "ranks differ": (low_rank(lokr_w2_b=ones(3, 8)), r"lokr_w2_b': its rank 3 is not that of its other half"),
    "Tucker ranks differ": (
        tucker(t2=(2, 3, 3, 3)),
        r"lokr_t2': \[2, 3, 3, 3\] does not fit lokr_w2_a and lokr_w2_b",
    ),
    "Tucker kernel": (tucker(t2=(2, 2, 1, 3)), "lokr_t2': .* is for another kernel"),
    "empty factor": (lokr(Q, (4, 0)), r"lokr_w1': is empty: its shape is \[4, 0\]"),
    "integer factor": (
        low_rank(lokr_w1=ones(4, 4, dtype=np.int32)),
        "lokr_w1': must be of floating point, is I32",
    ),
    "alpha of many numbers": (low_rank(alpha=ones(3)), r"alpha': must be one number, its shape is \[3\]"),
    "no alpha at all": (low_rank(alpha=ones(0)), r"alpha': must be one number, its shape is \[0\]"),
    "infinite alpha": (
        low_rank(alpha=np.float32(np.inf)),
        f"'{Q}': its scale is inf: alpha, scale and scalar",
    ),
    "alpha NaN": (low_rank(alpha=np.float16(np.nan)), "its scale is nan"),
    "infinite scale": (low_rank(scale=np.float32(-np.inf)), "its scale is -inf"),
    "negative alpha": (low_rank(alpha=ones() * -1), f"'{Q}.alpha': is -1; it must not be negative"),
    "negative infinite alpha": (low_rank(alpha=np.float32(-np.inf)), "alpha': is -inf"),
    "infinite scalar": (low_rank(alpha=ones(), scalar=ones() * np.inf), "its scale is inf"),
    "LoRA, half": (of(Q, lora_up_weight=(32, 4)), f"'{Q}': has lora_up.weight but no lora_down.weight"),
    "LoRA, ranks differ": (
        of(Q, lora_up_weight=(32, 4), lora_down_weight=(5, 32)),
        rf"'{Q}.lora_down.weight': its rank 5 is not that of its other half, lora_up.weight, .* \[32, 4\]",
    ),
    "LoRA of another weight": (
        of(Q, lora_up_weight=(32, 4), lora_down_weight=(4, 33)),
        rf"'{Q}': the weight is \[32, 32\], but the factors .* make \[32, 33\]; it is for another model",
    ),
    "LoRA, other kernel": (
        of(CONV, lora_up_weight=(32, 4, 1, 1), lora_down_weight=(4, 32, 1, 9)),
        r"lora_down.weight': \[4, 32, 1, 9\] is for another kernel than the weight's \[3, 3\]",
    ),
    "LoRA, Tucker ranks differ": (
        of(CONV, lora_up_weight=(32, 4), lora_down_weight=(4, 32), lora_mid_weight=(4, 5, 3, 3)),
        r"lora_mid.weight': \[4, 5, 3, 3\] does not fit lora_up.weight and lora_down.weight",
    ),
    "LoRA, three axes": (
        of(Q, lora_up_weight=(32, 4, 1), lora_down_weight=(4, 32)),
        "lora_up.weight': must have 2 or 4 axes",
    ),
    "LoRA, bias of a layer without": (
        of(Q, lora_up_weight=(32, 4), lora_down_weight=(4, 32)) | {f"{Q}.lora_B.bias": ones(32)},
        rf"'{Q}': changes a bias, but .*attn1.to_q.weight has none",
    ),
    "one tensor in two spellings": (
        of(Q, lora_up_weight=(32, 4), lora_down_weight=(4, 32)) | {f"{Q}.lora_B.weight": ones(32, 4)},
        f"'{Q}.lora_(B|up).weight': is the same tensor as '{Q}.lora_(B|up).weight'",
    ),
    "LoHa, half": (of(Q, hada_w1_a=(32, 4)), "has hada_w1_a but no hada_w1_b and no hada_w2_a and no hada_"),
    "LoHa, one core": (
        of(CONV, hada_t1=(4, 4, 3, 3), **LOHA),
        "has hada_t1 but not both of hada_t1 and hada_t2",
    ),
    "(IA)3 without weight": ({f"{Q}.on_input": ones(dtype=np.int64)}, f"'{Q}': has on_input but no weight"),
    "(IA)3 of another size": (
        {f"{Q}.on_input": ones(dtype=np.int64), f"{Q}.weight": ones(31)},
        rf"'{Q}.weight': has 31 scales for the inputs of a weight \[32, 32\]",
    ),
    "(IA)3 of PEFT, either side": (
        {"base_model.model.mid_block.resnets.0.conv1.ia3_l": ones(1, 64, 1, 1)},
        "may scale inputs or outputs; put PEFT's adapter_config.json beside the file",
    ),
    "difference of another shape": (
        of(Q, diff=(32, 31)),
        r"diff': is \[32, 31\], but the weight is \[32, 32\]",
    ),
    "difference of another kernel": (of(CONV, diff=(32, 96, 3)), r"but the weight is \[32, 32, 3, 3\]"),
    "bias of another length": (of(CONV, diff_b=(31,)), r"its bias is \[31\], but the model's is \[32\]"),
    "bias that the layer has not": (of(Q, diff_b=(32,)), "changes a bias, but .*to_q.weight has none"),
    "GLoRA, half": (of(Q, a1_weight=(32, 4)), "has a1.weight but no a2.weight and no b1.weight"),
    "GLoRA of another weight": (
        of(Q, a1_weight=(31, 4), a2_weight=(4, 31), b1_weight=(32, 4), b2_weight=(4, 31)),
        r"the weight is \[32, 32\], but the factors are a1.weight \[31, 4\], a2.weight \[4, 31\]",
    ),
    "GLoRA for a normalisation": (
        of(NORM, a1_weight=(1, 1), a2_weight=(1, 1), b1_weight=(1, 1), b2_weight=(1, 1)),
        r"adapts matrices and convolutions, but the weight is \[32\]",
    ),
    "OFT of other outputs": (
        of(Q, oft_blocks=(4, 7, 7)),
        rf"'{Q}.oft_blocks': blocks \[4, 7, 7\] do not make up the 32 outputs of the weight",
    ),
    "OFT, blocks that are not square": (of(Q, oft_blocks=(4, 8, 7)), "do not make up the 32 outputs"),
    "OFT, negative constraint": (
        of(Q, oft_blocks=(4, 8, 8)) | {f"{Q}.alpha": ones() * -1},
        "is -1; a constraint must be finite and not negative",
    ),
    "OFT, constraint NaN": (
        of(Q, oft_blocks=(4, 8, 8)) | {f"{Q}.alpha": np.float32(np.nan)},
        "is nan; a constraint must be finite",
    ),
    "OFT, rescale alone": (of(Q, rescale=(32, 1)), f"'{Q}': has rescale but no factors"),
    "OFT, rescale of another length": (
        of(Q, oft_blocks=(4, 8, 8), rescale=(31, 1)),
        rf"'{Q}.rescale': is \[31, 1\], but the weight is \[32, 32\]",
    ),
    "BOFT of other outputs": (of(Q, oft_blocks=(2, 4, 7, 7)), "do not make up the 32 outputs"),
    "BOFT, too many stages": (of(Q, oft_blocks=(5, 4, 8, 8)), "do not make up the 32 outputs"),
    "BOFT, odd blocks": (of(Q, oft_blocks=(1, 32, 1, 1)), "do not make up the 32 outputs"),
    "OFT of PEFT, no triangle": ({f"{PEFT_CONV}.oft_R.weight": ones(6, 7)}, "do not make up the 36 inputs"),
    "OFT of PEFT, other inputs": (
        {f"{PEFT_CONV}.oft_R.weight": ones(5, 15)},
        r"blocks \[5, 15\] do not make up the 36 inputs of the weight",
    ),
    "BOFT of PEFT, half": ({f"{PEFT_CONV}.boft_R": ones(1, 9, 4, 4)}, "has boft_R but no boft_s"),
    "BOFT of PEFT, other outputs": (
        {f"{PEFT_CONV}.boft_R": ones(1, 9, 4, 4), f"{PEFT_CONV}.boft_s": ones(31, 1)},
        r"boft_s': is \[31, 1\], but the weight is \[32, 4, 3, 3\]",
    ),
    "absurd rank": (
        of(Q, lora_up_weight=(32, 40_000), lora_down_weight=(40_000, 32)),
        rf"'{Q}.lora_(up|down).weight': .* is absurdly large for a weight \[32, 32\]",
    ),
    "empty halves": (of(Q, lora_up_weight=(32, 0), lora_down_weight=(0, 32)), "is empty: its shape is"),
    "same module twice in dotted naming": (
        of("unet.conv_in", diff=(32, 4, 3, 3)) | of(PEFT_CONV, diff=(32, 4, 3, 3)),
        "is the same module as",
    ),
    "Stable Cascade": (
        of("lora_prior_unet_x", diff=(4, 4)),
        "1 of 1 modules are not in this model: 'lora_prior_unet_x'",
    ),
    "same module twice": (lokr(Q) | lokr(SAME_Q), f"'{SAME_Q}': is the same module as '{Q}'"),
    "unmatched": (
        lokr("lora_unet_nowhere") | lokr(Q),
        r"1 of 2 modules are not in this model: 'lora_unet_nowhere'$",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str, tmp_path: Path) -> None:
    tensors, message = CASES[case]
    path = tmp_path / "adapter.safetensors"
    save_file({name: np.asarray(value) for name, value in tensors.items()}, path)
    with pytest.raises(AdapterError, match=message) as found, open_adapter(path) as adapter:
        match([adapter], SMALL)
    assert str(found.value).startswith(f"{path}: ")
    assert "\n" not in str(found.value)


def test_ten_unmatched_modules_and_a_count(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    modules = [f"lora_unet_no_{index:02}" for index in range(12)]
    save_file({name: value for module in modules for name, value in lokr(module).items()}, path)
    with pytest.raises(AdapterError, match="12 of 12 modules") as found, open_adapter(path) as adapter:
        match([adapter], SMALL)
    assert str(found.value).endswith("and 2 more")
    assert sum(module in str(found.value) for module in modules) == 10


@pytest.mark.parametrize(
    ("width", "family"), [(2048, "SDXL"), (1024, "Stable Diffusion 2"), (1280, "the SDXL refiner")]
)
@pytest.mark.parametrize("block", [0, 1], ids=["of the wrong shape", "missing"])
def test_adapter_of_another_family_is_recognised(width: int, family: str, block: int, tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    module = f"lora_unet_down_blocks_1_attentions_0_transformer_blocks_{block}_attn2_to_k"
    save_file(lokr(module, (8, 8), (80, width // 8)), path)
    with (
        pytest.raises(AdapterError, match=f"it looks like an adapter for {family}"),
        open_adapter(path) as adapter,
    ):
        match([adapter], SMALL)


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_strength_must_be_finite(strength: float, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="strength must be a finite number"):
        open_adapter(tmp_path / "any.safetensors", 1.0, strength)


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    save_file(lokr(Q), path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(LoadError, match="truncated"):
        open_adapter(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_factor_that_is_not_finite(value: float, tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    tensors = lokr(Q)
    tensors[f"{Q}.lokr_w1"][1, 2] = value
    save_file(tensors, path)
    message = f"'{Q}.lokr_w1': contains NaN or infinity"
    with open_adapter(path) as adapter:
        source = WeightSource({}, [adapter])  # type: ignore[arg-type]
        with pytest.raises(AdapterError, match=message):
            match([adapter], SMALL)
        with pytest.raises(AdapterError, match=message):
            source.read_weight(weight(f"{Q}.lokr_w1", (4, 4), "adapter0"))


def test_factors_whose_product_overflows(tmp_path: Path) -> None:
    """Known from the factors, before any weight is read; what only a sum overflows is found in folding."""
    path = tmp_path / "adapter.safetensors"
    save_file({name: np.float32(1e20) * tensor for name, tensor in lokr(Q).items()}, path)
    with (
        pytest.raises(AdapterError, match=f"'{Q}': its factors reach 1e.20 and 1e.20, so that their product"),
        open_adapter(path) as adapter,
    ):
        match([adapter], SMALL)


def test_shape_that_changed_since_the_plan(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    save_file(lokr(Q), path)
    with open_adapter(path) as adapter:
        source = WeightSource({}, [adapter])  # type: ignore[arg-type]
        with pytest.raises(LoadError, match=r"expected shape \[4, 5\], found \[4, 4\]"):
            source.read_weight(weight(f"{Q}.lokr_w1", (4, 5), "adapter0"))


def test_two_algorithms_may_change_one_module_under_two_names(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    save_file(lokr(Q) | of(SAME_Q, lora_up_weight=(32, 4), lora_down_weight=(4, 32)), path)
    with open_adapter(path) as adapter:
        (updates,) = match([adapter], SMALL).updates.values()
    assert len(updates) == 2


def test_bias_difference_beside_another_algorithm(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    save_file(lokr(CONV, (4, 4), (8, 8 * 9)) | {f"{CONV}.diff_b": ones(32), f"{CONV}.alpha": ones()}, path)
    with open_adapter(path) as adapter:
        names = list(match([adapter], SMALL).updates)
    assert sorted(name.rpartition(".")[2] for name in names) == ["bias", "weight"]


QUERY = f"{SMALL.unet.prefix}input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


def folded(path: Path, before: Any, dtype: str, strength: float = 1.0) -> Any:
    """What a build stores of QUERY."""
    with open_adapter(path, strength) as adapter:
        (update,) = match([adapter], SMALL).updates[QUERY]
        source = WeightSource(Tensors({QUERY: before}), [adapter])
        node = update(weight(QUERY, (32, 32), dtype="f16" if before.dtype == np.float16 else "f32"))
        return fold(PackedWeight(node, Rows(DType(dtype))), source.read_weight)


@pytest.mark.parametrize(("dtype", "value"), [("f32", 1.8e19), ("f16", 1e3)])
def test_sum_that_overflows(dtype: str, value: float, tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    factors = {"lora_up.weight": ones(32, 8), "lora_down.weight": ones(8, 32)}
    save_file({f"{Q}.{name}": np.float32(value) * tensor for name, tensor in factors.items()}, path)
    message = f"{QUERY}: with adapters its values are .*, more than {dtype} can hold.*'{Q}.lora_up.weight'"
    with pytest.raises(AdapterError, match=message):
        folded(path, ones(32, 32), dtype)


def test_product_that_fits_is_rounded_once(tmp_path: Path) -> None:
    """1 + 2^-11 + 2^-22 is above the middle of two f16 numbers; its terms, rounded alone, are not."""
    path = tmp_path / "adapter.safetensors"
    save_file(lokr(Q), path)
    found = folded(path, ones(32, 32, dtype=np.float16), "f16", 2**-11 + 2**-22)
    assert found.dtype == np.float16
    assert np.array_equal(found, np.full((32, 32), 1 + 2**-10, np.float16))
