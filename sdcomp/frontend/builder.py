"""Layers over named weights, so that a lowering file reads like the network that it lowers.

Activations are NHWC or (batch, tokens, channels), f32.
"""

from collections.abc import Callable
from math import prod

from sdcomp.errors import FamilyError, UsageError
from sdcomp.frontend.config import NORM_GROUPS
from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build
from sdcomp.ir.types import DType, Shape

Lookup = Callable[[str], Node]
"""From a tensor's canonical name to its `weight` node."""

TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)


class Weights:
    """The weights of a module's graphs: each tensor and each matrix view of a 1x1 convolution is one node."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._tensors: dict[str, Node] = {}
        self._matrices: dict[str, Node] = {}

    @classmethod
    def of(cls, lookup: Lookup) -> "Weights":
        """`lookup` itself where it shares already."""
        return lookup if isinstance(lookup, cls) else cls(lookup)

    def __call__(self, name: str) -> Node:
        if name not in self._tensors:
            self._tensors[name] = self._lookup(name)
        return self._tensors[name]

    def matrix(self, name: str, outputs: int, inputs: int) -> Node:
        """The weight `name` as [outputs, inputs]: a linear weight as it is, a 1x1 convolution's reshaped.

        Raises FamilyError where the tensor has neither shape.
        """
        weight = self(name)
        if weight.dtype == DType.I32 or weight.shape not in ((outputs, inputs), (outputs, inputs, 1, 1)):
            raise _unexpected(name, (outputs, inputs), weight)
        if len(weight.shape) == 2:
            return weight
        if name not in self._matrices:
            self._matrices[name] = build("reshape", weight, shape=(outputs, inputs))
        return self._matrices[name]


class Builder:
    """Builds layers whose weights are named `prefix + name`; `prefix` is empty or ends in a dot. `groups` is
    how many groups every group normalisation of the network has.

    Every method raises FamilyError where a weight's shape does not fit, naming the tensor.
    """

    def __init__(self, prefix: str, weights: Lookup, groups: int = NORM_GROUPS) -> None:
        self._prefix = prefix
        self._groups = groups
        self._weights = Weights.of(weights)

    def at(self, module: str) -> "Builder":
        """The builder of a submodule."""
        return Builder(f"{self._prefix}{module}.", self._weights, self._groups)

    def weight(self, name: str, shape: Shape) -> Node:
        """The tensor `name` of this shape."""
        node = self._weights(self._prefix + name)
        if node.shape != shape or node.dtype == DType.I32:
            raise _unexpected(self._prefix + name, shape, node)
        return node

    def linear(self, x: Node, name: str, width: int, bias: bool = True) -> Node:
        """x[..., K] W^T + b, with W[width, K]. A 1x1 convolution of an NHWC map is the same."""
        matrix = self._weights.matrix(f"{self._prefix}{name}.weight", width, x.shape[-1])
        product = build("matmul", x, matrix)
        return self._biased(product, name) if bias else product

    def conv(self, x: Node, name: str, width: int, stride: int = 1, padding: Shape = (1, 1, 1, 1)) -> Node:
        """A 3x3 convolution of x[N,H,W,I] with bias; padding is (top, left, bottom, right)."""
        kernel = self.weight(f"{name}.weight", (width, x.shape[3], 3, 3))
        return self._biased(build("conv2d", x, kernel, stride=stride, padding=padding), name)

    def group_norm(self, x: Node, name: str, eps: float) -> Node:
        """Group normalisation over the last axis, in the network's number of groups."""
        return build("group_norm", x, *self._affine(x, name), groups=self._groups, eps=eps)

    def layer_norm(self, x: Node, name: str) -> Node:
        """Layer normalisation over the last axis, eps 1e-5 as torch has by default."""
        return build("layer_norm", x, *self._affine(x, name), eps=1e-5)

    def _affine(self, x: Node, name: str) -> tuple[Node, Node]:
        channels = x.shape[-1:]
        return self.weight(f"{name}.weight", channels), self.weight(f"{name}.bias", channels)

    def _biased(self, x: Node, name: str) -> Node:
        return build("add", x, self.weight(f"{name}.bias", x.shape[-1:]))


def program_input(name: str, rate: str, shape: Shape, dtype: DType = DType.F32) -> Node:
    """An `input` node."""
    return build("input", name=name, rate=rate, shape=shape, dtype=dtype.value)


def to_nhwc(x: Node) -> Node:
    """From the ecosystem's layout to the one inside."""
    return build("transpose", x, permutation=TO_NHWC)


def to_nchw(x: Node) -> Node:
    """From the layout inside to the ecosystem's."""
    return build("transpose", x, permutation=TO_NCHW)


def to_tokens(x: Node) -> Node:
    """x[N,H,W,C] as [N, H W, C]."""
    batch, *spatial, channels = x.shape
    return build("reshape", x, shape=(batch, prod(spatial), channels))


def require_multiple(what: str, multiple: int, width: int, height: int) -> None:
    """Raises UsageError unless both sides are positive multiples."""
    if min(width, height) < 1 or width % multiple or height % multiple:
        raise UsageError(f"{what} {width}x{height}: both sides must be positive multiples of {multiple}")


def _unexpected(name: str, shape: Shape, found: Node) -> FamilyError:
    return FamilyError(f"{name}: expected a float tensor of shape {list(shape)}, found {found.type}")
