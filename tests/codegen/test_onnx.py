"""Exported models in onnxruntime against torch; their folder against the libraries that read it."""

import json
import os
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from onnx.external_data_helper import load_external_data_for_tensor
from safetensors.numpy import load_file
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import sdcomp
from sdcomp import AdapterFile, ExportOptions, export_onnx
from sdcomp.codegen.onnx.data import Form, WeightStore
from sdcomp.codegen.onnx.extents import Extents
from sdcomp.codegen.onnx.model import OPSET, write_model
from sdcomp.codegen.onnx.operators import LOWERINGS
from sdcomp.errors import LinkError, PassError, UsageError
from sdcomp.frontend.config import ModelConfig
from sdcomp.frontend.synthetic import random_tensors, small_config, write_random_checkpoint
from sdcomp.frontend.synthetic_lokr import write_random_lokr
from sdcomp.frontend.tokenizer import Tokenizer
from sdcomp.ir.graph import Graph, Node
from sdcomp.ir.interpret import interpret
from sdcomp.ir.ops import OPS, SOURCES, build
from sdcomp.ir.types import Array, DType
from sdcomp.passes.rewrite_winograd import winograd_stages
from sdcomp.winograd.matrices import POINTS
from tests.checkpoints import diffusers_layout
from tests.passes.graphs import number, random_array, source, weight

torch.set_num_threads(1)

CONFIG = small_config(unet={"transformer_depth": (1, 0)})
SIZE = (64, 32)
STRENGTH = 0.5
BOUND = 1e-5
WEIGHTS_ONLY = {"div", "minimum", "norm", "block_matmul", "skew", "cayley"}


def draw(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def error(found: Array, expected: Array) -> float:
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def session(path: Path) -> onnxruntime.InferenceSession:
    """After the checker has found nothing."""
    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(path: Path, **inputs: Array) -> Array:
    """The first output."""
    found: Array = session(path).run(None, inputs)[0]
    return found


@dataclass(frozen=True)
class Files:
    """A checkpoint, an adapter, and the checkpoint exported without it for any size."""

    checkpoint: Path
    adapter: Path
    folder: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("export")
    made = Files(folder / "model.safetensors", folder / "style.safetensors", folder / "free")
    write_random_checkpoint(made.checkpoint, CONFIG)
    write_random_lokr(made.adapter, CONFIG)
    export_onnx(made.checkpoint, made.folder, ExportOptions(size=None))
    return made


def weights_of(prefix: str, config: ModelConfig = CONFIG) -> Mapping[str, torch.Tensor]:
    """The checkpoint's tensors under diffusers' names."""
    tensors = diffusers_layout(config, random_tensors(config))
    return {
        name[len(prefix) :]: torch.from_numpy(value.astype(np.float32))
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def settings(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return {name: value for name, value in found.items() if not name.startswith("_")}


# Networks against the libraries whose configurations are exported


@pytest.mark.parametrize(("height", "width", "batch"), [(16, 32, 2), (24, 16, 1)])
def test_unet(files: Files, height: int, width: int, batch: int) -> None:
    model = UNet2DConditionModel(**settings(files.folder / "unet/config.json")).eval()
    model.load_state_dict(weights_of("unet."))
    sample, context = draw(batch, 4, height, width), draw(batch, 77, CONFIG.unet.context_channels)
    with torch.inference_mode():
        expected = model(torch.from_numpy(sample), 431.5, torch.from_numpy(context)).sample.numpy()
    timestep = np.array(431.5, np.float32)
    path = files.folder / "unet/model.onnx"
    assert error(run(path, sample=sample, timestep=timestep, encoder_hidden_states=context), expected) <= 5e-5


def test_vae(files: Files) -> None:
    model = AutoencoderKL(**settings(files.folder / "vae_decoder/config.json")).eval()
    model.load_state_dict(weights_of("vae."))
    latents, image = draw(2, 4, 6, 8), draw(2, 3, 12, 20)
    with torch.inference_mode():
        decoded = model.decode(torch.from_numpy(latents)).sample.numpy()
        encoded = model.encode(torch.from_numpy(image)).latent_dist.parameters.numpy()
    assert error(run(files.folder / "vae_decoder/model.onnx", latent_sample=latents), decoded) <= BOUND
    assert error(run(files.folder / "vae_encoder/model.onnx", sample=image), encoded) <= BOUND


def test_text_encoder(files: Files) -> None:
    found = CLIPTextConfig.from_pretrained(files.folder / "text_encoder")
    model = CLIPTextModel(found).eval()
    weights = weights_of("text_encoder.")
    named = {
        name if name in model.state_dict() else name.removeprefix("text_model."): w
        for name, w in weights.items()
    }
    model.load_state_dict(named)
    ids = np.random.default_rng(0).integers(0, 49408, (2, 77)).astype(np.int32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(ids)).last_hidden_state.numpy()
    assert error(run(files.folder / "text_encoder/model.onnx", input_ids=ids), expected) <= BOUND


def test_tokenizer(files: Files) -> None:
    theirs = CLIPTokenizer.from_pretrained(files.folder / "tokenizer")
    for prompt in ("a lovely cat", "  Ünïcode, 3 dogs!! ", ""):
        ids = theirs(prompt, padding="max_length", max_length=77, truncation=True).input_ids
        assert ids == Tokenizer.default().encode(prompt).ids.tolist()


def test_scheduler_and_index(files: Files) -> None:
    scheduler = EulerAncestralDiscreteScheduler.from_pretrained(files.folder / "scheduler")
    scheduler.set_timesteps(20)
    assert (float(scheduler.timesteps[0]), float(scheduler.timesteps[-1])) == (999.0, 0.0)
    assert float(scheduler.sigmas[0]) == pytest.approx(14.6146, rel=1e-4)
    index = settings(files.folder / "model_index.json")
    folders = {path.name for path in files.folder.iterdir() if path.is_dir()}
    present = {name for name, value in index.items() if isinstance(value, list) and value[0]}
    assert present - {"vae"} | {"vae_decoder", "vae_encoder"} == folders


# What a model is made of


def test_inputs_and_outputs_are_those_of_pipelines(files: Files) -> None:
    found = session(files.folder / "unet/model.onnx")
    shapes = {value.name: value.shape for value in (*found.get_inputs(), *found.get_outputs())}
    assert shapes == {
        "sample": ["batch_size", 4, "height", "width"],
        "timestep": [],
        "encoder_hidden_states": ["batch_size", 77, CONFIG.unet.context_channels],
        "out_sample": ["batch_size", 4, "height", "width"],
    }
    (decoded,) = session(files.folder / "vae_decoder/model.onnx").get_outputs()
    assert (decoded.name, decoded.shape) == (
        "sample",
        ["batch_size", 3, "latent_height * 2", "latent_width * 2"],
    )


def test_names_and_operators(files: Files) -> None:
    for path in files.folder.rglob("*.onnx"):
        model = onnx.load(path, load_external_data=False)
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
        assert all(node.domain == "" for node in model.graph.node)
        assert max(Counter(node.name for node in model.graph.node).values()) == 1
    unet = onnx.load(files.folder / "unet/model.onnx", load_external_data=False)
    names = {node.name for node in unet.graph.node}
    module = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1"
    assert {f"{module}.to_q/MatMul", f"{module}.to_v/Softmax"} <= names
    weights = {tensor.name for tensor in unet.graph.initializer}
    stored = {name for name in load_file(files.checkpoint) if name.startswith("model.diffusion_model.")}
    assert stored <= weights


def test_a_network_has_no_more_transposes_than_its_attention_needs(files: Files) -> None:
    """Four per attention, and two to enter and leave a map's tokens."""
    decoder = onnx.load(files.folder / "vae_decoder/model.onnx", load_external_data=False)
    assert Counter(node.op_type for node in decoder.graph.node)["Transpose"] <= 6


def test_table_covers_every_operation() -> None:
    assert set(LOWERINGS) == set(OPS) - set(SOURCES) - WEIGHTS_ONLY


def test_operation_of_weight_expressions_only(tmp_path: Path) -> None:
    with pytest.raises(PassError, match=r"div f32.*weight expressions only"):
        export_graph(tmp_path, build("div", source("x", (2,)), weight("w", (2,))))


# Adapters and weights


def initializer(folder: Path, network: str, name: str) -> Array:
    model = onnx.load(folder / network / "model.onnx", load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    load_external_data_for_tensor(tensor, str(folder / network))
    return onnx.numpy_helper.to_array(tensor)


def test_adapters_are_folded_in(files: Files, tmp_path: Path) -> None:
    adapters = [AdapterFile(files.adapter, STRENGTH)]
    export_onnx(files.checkpoint, tmp_path / "out", ExportOptions(adapters, SIZE))
    base = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    factors = {name: torch.from_numpy(value).double() for name, value in load_file(files.adapter).items()}
    delta = torch.kron(factors[f"{module}.lokr_w1"], factors[f"{module}.lokr_w2"])
    expected = load_file(files.checkpoint)[base] + STRENGTH * delta.numpy()
    assert error(initializer(tmp_path / "out", "unet", base).T, expected) <= 1e-7
    assert error(initializer(files.folder, "unet", base).T, expected) > 0.01


def test_adapters_have_a_strength_of_their_own_for_text(files: Files, tmp_path: Path) -> None:
    adapters = [AdapterFile(files.adapter, STRENGTH, te_strength=0)]
    export_onnx(files.checkpoint, tmp_path / "out", ExportOptions(adapters, SIZE))
    names = {
        "text_encoder": "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight",
        "unet": "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
    }
    changed = {
        network: error(initializer(tmp_path / "out", network, name), initializer(files.folder, network, name))
        for network, name in names.items()
    }
    assert changed["text_encoder"] == 0
    assert changed["unet"] > 0.01


def test_f16_weights(files: Files, tmp_path: Path) -> None:
    """A checkpoint that is stored as f16 loses nothing, and takes half the room."""
    export_onnx(files.checkpoint, tmp_path / "out", ExportOptions(size=SIZE, weights="f16"))
    latents = draw(1, 4, 16, 32)
    half, full = tmp_path / "out/vae_decoder", files.folder / "vae_decoder"
    found = [run(folder / "model.onnx", latent_sample=latents) for folder in (half, full)]
    assert error(*found) <= 1e-6
    sizes = [(folder / "model.onnx_data").stat().st_size for folder in (half, full)]
    assert sizes[0] < 0.6 * sizes[1]


def test_f16_overflow_is_told() -> None:
    node = weight("layer.weight", (40, 40))
    store = WeightStore(BytesIO(), "data", lambda _: np.full((40, 40), 1e6, np.float32), "f16")
    with pytest.raises(LinkError, match=r"layer.weight: has values beyond the range of f16"):
        store.tensor("layer.weight", node, Form.plain(node), store.stored_type(node))


def test_weights_are_streamed(tmp_path: Path) -> None:
    """Eight tensors, one of them in memory at a time, in whatever form it is written."""
    size = 4 << 20
    with open(tmp_path / "data", "wb") as file:
        store = WeightStore(file, "data", lambda node: np.ones(node.shape, np.float32), "f32")
        tracemalloc.start()
        for index in range(8):
            node = weight(f"w{index}", (1024, 1024))
            store.tensor(f"w{index}", node, Form(node.shape, (1, 0)), DType.F32)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (tmp_path / "data").stat().st_size == 8 * size
    assert peak < 3 * size


def test_programs_after_all_passes_compute_the_network(files: Files, tmp_path: Path) -> None:
    export_onnx(files.checkpoint, tmp_path / "out", ExportOptions(size=SIZE, plan=True))
    plan = tmp_path / "out/plan"
    values = {
        "context": draw(2, 77, CONFIG.unet.context_channels),
        "timestep": np.array([431.5], np.float32),
        "latents": draw(1, 4, 16, 32),
    }
    for name in ("unet.prompt@64x32x2", "unet.step@64x32x2", "unet@64x32x2"):
        found = session(plan / f"{name}.onnx")
        outputs = [output.name for output in found.get_outputs()]
        feeds = {value.name: values[value.name] for value in found.get_inputs()}
        values |= dict(zip(outputs, found.run(None, feeds), strict=True))
    expected = run(
        files.folder / "unet/model.onnx",
        sample=np.repeat(values["latents"], 2, 0),
        timestep=values["timestep"].reshape(()),
        encoder_hidden_states=values["context"],
    )
    assert error(values["noise"], expected) <= 5e-5
    assert (plan / "vae_encoder@64x32.onnx").exists()


# Single operations that no network has


def export_graph(folder: Path, output: Node) -> Path:
    graph = Graph("g", {"y": output})
    with open(folder / "data", "wb") as file:
        store = WeightStore(file, "data", _stored, "f32")
        write_model(graph, folder / "g.onnx", Extents.fixed(graph), store, lambda done, total: None)
    return folder / "g.onnx"


def _stored(node: Node) -> Array:
    return random_array(node).astype(node.dtype.numpy)


@pytest.mark.parametrize(
    "output",
    [
        pytest.param(build("kron", source("a", (2, 3)), source("b", (4, 5, 3, 3))), id="kron"),
        pytest.param(build("add", build("cast", source("x", (3, 4)), dtype="f16"), number(1.0)), id="cast"),
        pytest.param(build("matmul", source("x", (3, 4)), source("w", (5, 4))), id="matmul of two inputs"),
        pytest.param(
            build(
                "group_norm", source("x", (2, 8)), source("g", (8,)), source("b", (8,)), groups=2, eps=1e-5
            ),
            id="group norm by inputs",
        ),
    ],
)
def test_operation(output: Node, tmp_path: Path) -> None:
    path = export_graph(tmp_path, output)
    graph = Graph("g", {"y": output})
    inputs = {node.text("name"): random_array(node).astype(np.float32) for node in graph.inputs()}
    assert error(run(path, **inputs), interpret(graph, inputs, random_array)["y"]) <= 1e-6


@pytest.mark.parametrize(("m", "scale"), POINTS)
def test_winograd_stages(m: int, scale: int, tmp_path: Path) -> None:
    x, w = source("x", (2, 7, 9, 5)), weight("w", (6, 5, 3, 3))
    upsampled = build("upsample_nearest", x, scale=scale)
    stages = winograd_stages(build("conv2d", upsampled, w, stride=1, padding=(1, 1, 1, 1)), m, scale)
    inputs = random_array(x).astype(np.float32)
    channels_first = torch.from_numpy(inputs).double().permute(0, 3, 1, 2)
    repeated = functional.interpolate(channels_first, scale_factor=scale)
    expected = functional.conv2d(repeated, torch.from_numpy(_stored(w)).double(), padding=1)
    found = run(export_graph(tmp_path, stages), x=inputs)
    assert error(found, expected.permute(0, 2, 3, 1).numpy()) <= 2e-6


# The folder


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_nothing_is_left_behind(files: Files, tmp_path: Path, failure: BaseException) -> None:
    def fail(stage: str, done: int, total: int) -> None:
        if stage == "unet" and done > 5:
            raise failure

    expected = LinkError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        export_onnx(files.checkpoint, tmp_path / "out", ExportOptions(size=SIZE), fail)
    assert os.listdir(tmp_path) == []


def test_writes_into_an_empty_folder_only(files: Files, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    sdcomp.export_onnx(files.checkpoint, tmp_path / "out", ExportOptions(size=SIZE))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="is not empty"):
        sdcomp.export_onnx(files.checkpoint, tmp_path / "out", ExportOptions(size=SIZE))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ExportOptions(weights="q4"), "--weights q4: expected one of f32, f16"),
        (ExportOptions(target="z80"), "--target z80: unknown; known are native"),
        (ExportOptions(size=None, plan=True), "give --size instead of --dynamic"),
        (ExportOptions(size=(60, 61)), "both sides must be positive multiples"),
    ],
)
def test_impossible_options(files: Files, tmp_path: Path, options: ExportOptions, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        export_onnx(files.checkpoint, tmp_path / "out", options)
    assert os.listdir(tmp_path) == []
