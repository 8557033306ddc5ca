"""The networks that numbers are compared on, and the ways in which they are stored and built."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdcomp.compiler import AdapterFile, BuildOptions
from tests.artifacts import TINY, Builder, Built, Networks
from tests.runtime.oracle import write_lycoris


@dataclass(frozen=True)
class Subject:
    """Networks, the sizes to build them for, and how LyCORIS shall factorise an adapter for them."""

    networks: Networks
    sizes: tuple[tuple[int, int], ...]
    lokr: dict[str, Any] = field(default_factory=dict)


TWO_SIZES = "one level, two sizes"

SUBJECTS = {
    "two levels": Subject(
        Networks(
            unet={"res_blocks": 1},
            vae={"encoder_res_blocks": 1, "decoder_res_blocks": 2},
        ),
        ((64, 64),),
    ),
    "linear projection": Subject(
        Networks(
            unet={
                "channel_mult": (1, 3),
                "res_blocks": 2,
                "transformer_depth": (2, 0),
                "linear_projection": True,
                "heads": None,
                "head_channels": 16,
            },
            vae={"channel_mult": (1,), "decoder_res_blocks": 2, "has_encoder": False},
            text={"layers": 3},
            metadata={"sdcomp.unet.head_channels": "16"},
        ),
        ((24, 16),),
        {"use_tucker": True},
    ),
    TWO_SIZES: Subject(TINY, ((32, 32), (48, 32)), {"decompose_both": True, "factor": 8, "network_dim": 1}),
}


@dataclass(frozen=True)
class Variant:
    """How a checkpoint is stored and built, and the relative error that its networks may have."""

    dtype: str
    weights: str
    adapted: bool
    bound: float

    def __str__(self) -> str:
        return f"{self.dtype} as {self.weights}{', LoKr' * self.adapted}"


EXACT, ROUNDED = 1e-4, 2e-3
VARIANTS = (
    Variant("f16", "auto", False, EXACT),
    Variant("f32", "f32", False, EXACT),
    Variant("f32", "f16", False, ROUNDED),
    Variant("f16", "auto", True, ROUNDED),
    Variant("f32", "f32", True, EXACT),
    Variant("f32", "f16", True, ROUNDED),
)
STRENGTH = 0.75


@dataclass(frozen=True)
class Prepared:
    """A subject built as a variant, and its adapter if it has one."""

    subject: Subject
    variant: Variant
    built: Built
    adapter: Path | None

    def remove(self) -> None:
        for path in (self.built.path, self.built.checkpoint, self.adapter):
            if path is not None:
                path.unlink()


def prepare(builder: Builder, name: str, variant: Variant) -> Prepared:
    """Builds a subject as a variant; the files are named after both."""
    subject = SUBJECTS[name]
    label = f"{name}-{variant}".replace(",", "").replace(" ", "_")
    adapter = None
    if variant.adapted:
        adapter = builder.folder / f"{label}.lokr.safetensors"
        _, config = builder.checkpoint(label, subject.networks, variant.dtype)
        write_lycoris(adapter, config, builder.folder, **subject.lokr)
    options = BuildOptions(
        adapters=[AdapterFile(adapter, STRENGTH)] if adapter else [],
        sizes=subject.sizes,
        weights=variant.weights,
    )
    return Prepared(subject, variant, builder.build(label, subject.networks, options, variant.dtype), adapter)
