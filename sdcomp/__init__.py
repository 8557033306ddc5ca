"""sdcomp: an ahead-of-time compiler for Stable Diffusion."""

__version__ = "0.1.0"
