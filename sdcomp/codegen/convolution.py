"""3x3 convolutions of stride 1 as shapes: which algorithms compute one, and with which kernels."""

from dataclasses import dataclass

from sdcomp.codegen.kernels.base import Kernel
from sdcomp.codegen.kernels.contraction import Contraction, Geometry, panel_vectors
from sdcomp.codegen.kernels.movement import Resample
from sdcomp.codegen.kernels.winograd import WinogradConvolution
from sdcomp.codegen.kernels.winograd_tiles import Part, TileGrid
from sdcomp.codegen.targets import Target
from sdcomp.winograd.matrices import POINTS, TAPS

Form = tuple[int, int]
"""m and scale of F(m x m, 3 x 3): with scale 2 of an upsampled map, computed from the map itself."""

DIRECT = "direct"
UPSAMPLING = "upsampling"


@dataclass(frozen=True)
class Convolution:
    """The output is batches x height x width x columns; the input has `depth` channels and a border of 1.

    With a `scale` the input is a map of a `scale`-th of the height and width, upsampled before.
    """

    batches: int
    height: int
    width: int
    depth: int
    columns: int
    scale: int = 1


def name(form: Form | None) -> str:
    """`direct`, `F(4,3)`, or `F(4,3) of 2x` of an upsampled map."""
    if form is None:
        return DIRECT
    m, scale = form
    return f"F({m},3)" + f" of {scale}x" * (scale > 1)


def forms(scale: int) -> list[Form | None]:
    """What computes the convolution of a map upsampled `scale` times: directly, by Winograd, or folded."""
    return [None, *(form for form in POINTS if form[1] in (1, scale))]


def kernels(shape: Convolution, form: Form | None, target: Target) -> dict[str, tuple[Kernel, ...]]:
    """What runs, by the name under which `Costs` has its times; weights are f16."""
    folded = 1 if form is None else form[1]
    needed: dict[str, tuple[Kernel, ...]] = {}
    if shape.scale > folded:
        needed[UPSAMPLING] = (_upsampling(shape),)
    needed[name(form)] = (_direct(shape, target),) if form is None else _winograd(shape, form, target).stages
    return needed


def _upsampling(shape: Convolution) -> Resample:
    height, width, depth = shape.height // shape.scale, shape.width // shape.scale, shape.depth
    return Resample(shape.batches, height, width, depth, shape.scale, depth, depth, (1, 1, 1, 1))


def _direct(shape: Convolution, target: Target) -> Contraction:
    vectors = panel_vectors(target, shape.columns, False)
    row = (shape.width + TAPS - 1) * shape.depth
    geometry = Geometry(
        batches=shape.batches,
        outer=shape.height,
        inner=shape.width,
        batch_stride=(shape.height + TAPS - 1) * row,
        outer_stride=row,
        inner_stride=shape.depth,
        taps=tuple(i * row + j * shape.depth for i in range(TAPS) for j in range(TAPS)),
        depth=shape.depth,
    )
    kernel = Contraction(
        geometry,
        shape.columns,
        shape.columns,
        "f16",
        (),
        gated=False,
        vectors=vectors,
        tile_rows=target.tile_rows(vectors),
        lanes=target.lanes,
    )
    return kernel.tiled(target)


def _winograd(shape: Convolution, form: Form, target: Target) -> WinogradConvolution:
    m, scale = form
    vectors = panel_vectors(target, shape.columns, False)
    grid = TileGrid(
        m=m,
        scale=scale,
        batches=shape.batches,
        height=shape.height,
        width=shape.width,
        source_height=-(-shape.height // scale),
        source_width=-(-shape.width // scale),
        border=(1, 1),
        parts=(Part(shape.depth, shape.depth),),
        lanes=target.lanes,
    )
    kernel = WinogradConvolution(
        grid, shape.columns, shape.columns, "f16", (), vectors, target.tile_rows(vectors)
    )
    return kernel.tiled(target)
