"""The exported folder, as it is, in other runtimes that read its layout: OpenVINO, optimum's pipeline."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerAncestralDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sdcomp.export import ExportOptions, export_onnx
from sdcomp.frontend.synthetic import small_config, write_random_checkpoint
from sdcomp.ir.types import Array
from tests.codegen.test_onnx import draw, error, settings, weights_of

torch.set_num_threads(1)

CONFIG = small_config(unet={"transformer_depth": (1, 0)})
NETWORKS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


@pytest.fixture(scope="module", params=["fixed", "dynamic"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export for one size, or for all."""
    made = tmp_path_factory.mktemp(request.param)
    write_random_checkpoint(made / "model.safetensors", CONFIG)
    size = (64, 64) if request.param == "fixed" else None
    export_onnx(made / "model.safetensors", made / "onnx", ExportOptions(size=size))
    return made / "onnx"


def inputs_of(session: onnxruntime.InferenceSession) -> dict[str, Array]:
    """Two of everything, for pictures of 64x64."""
    extents = {"batch_size": 2, "height": 32, "width": 32, "latent_height": 32, "latent_width": 32}
    extents |= {"sample_height": 64, "sample_width": 64}
    found = {}
    for value in session.get_inputs():
        shape = [extents[e] if isinstance(e, str) else e for e in value.shape]
        ids = value.type == "tensor(int32)"
        values = np.random.default_rng(0).integers(0, 49408, shape).astype(np.int32) if ids else draw(*shape)
        found[value.name] = np.asarray(values if value.shape else np.float32(431.5))
    return found


@pytest.mark.parametrize("network", NETWORKS)
def test_openvino(folder: Path, network: str) -> None:
    openvino = pytest.importorskip("openvino")
    path = folder / network / "model.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options)
    inputs = inputs_of(session)
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = openvino.Core().compile_model(path, "CPU", exact)
    found = model(inputs)
    for output, expected in zip(session.get_outputs(), session.run(None, inputs), strict=True):
        assert error(found[output.name], expected) <= 2e-5


def torch_pipeline(folder: Path) -> StableDiffusionPipeline:
    """diffusers' own pipeline, of torch modules, from the checkpoint's weights and the exported settings."""
    unet = UNet2DConditionModel(**settings(folder / "unet/config.json"))
    unet.load_state_dict(weights_of("unet.", CONFIG))
    vae = AutoencoderKL(**settings(folder / "vae_decoder/config.json"))
    vae.load_state_dict(weights_of("vae.", CONFIG))
    text = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder"))
    names = text.state_dict()
    weights = weights_of("text_encoder.", CONFIG).items()
    text.load_state_dict(
        {n if n in names else n.removeprefix("text_model."): w for n, w in weights}, strict=False
    )
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=unet.eval(),
        scheduler=EulerAncestralDiscreteScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def test_optimum_makes_the_picture_that_diffusers_makes(folder: Path) -> None:
    optimum = pytest.importorskip("optimum.onnxruntime", exc_type=ImportError)
    wanted: dict[str, Any] = {
        "negative_prompt": "a dog",
        "num_inference_steps": 2,
        "height": 64,
        "width": 64,
        "latents": torch.from_numpy(draw(1, 4, 32, 32)),
        "output_type": "np",
    }
    pictures = [
        pipeline("a lovely cat", generator=torch.Generator().manual_seed(0), **wanted).images[0]
        for pipeline in (optimum.ORTDiffusionPipeline.from_pretrained(folder), torch_pipeline(folder))
    ]
    assert pictures[0].std() > 0.01
    assert error(*pictures) <= 1e-4


def test_optimum_starts_from_a_picture(folder: Path) -> None:
    """With the encoder."""
    optimum = pytest.importorskip("optimum.onnxruntime", exc_type=ImportError)
    pipeline = optimum.ORTStableDiffusionImg2ImgPipeline.from_pretrained(folder)
    image = torch.from_numpy(draw(1, 3, 64, 64)).clip(-1, 1)
    made = pipeline("a lovely cat", image=image, strength=0.5, num_inference_steps=4, output_type="np")
    assert made.images.shape == (1, 64, 64, 3)
