"""The cases of all kernel families, for tests that hold for any kernel."""

from collections.abc import Mapping

from tests.codegen import (
    test_attention,
    test_contraction,
    test_group_norm,
    test_layer_norm,
    test_lookup,
    test_microkernel,
    test_movement,
    test_pointwise,
    test_softmax,
    test_winograd,
)
from tests.codegen.case import Build

FAMILIES: dict[str, Mapping[str, Build]] = {
    "attention": test_attention.BUILDS,
    "contraction": test_contraction.BUILDS,
    "group_norm": test_group_norm.BUILDS,
    "layer_norm": test_layer_norm.BUILDS,
    "lookup": test_lookup.BUILDS,
    "microkernel": test_microkernel.BUILDS,
    "movement": test_movement.BUILDS,
    "pointwise": test_pointwise.BUILDS,
    "softmax": test_softmax.BUILDS,
    "winograd": test_winograd.BUILDS,
}
