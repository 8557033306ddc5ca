"""An artifact beside onnxruntime: network by network, as a whole picture, and kernel by kernel."""

from sdcomp.compare.cases import TOLERANCE, CompareOptions
from sdcomp.compare.kernels import KernelReport, KernelResult, compare_kernels
from sdcomp.compare.networks import Comparison, Report, compare
from sdcomp.compare.picture import Picture

__all__ = [
    "TOLERANCE",
    "CompareOptions",
    "Comparison",
    "KernelReport",
    "KernelResult",
    "Picture",
    "Report",
    "compare",
    "compare_kernels",
]
