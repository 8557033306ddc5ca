"""Patterns of `fuse_kernels`: one file per kernel family, each a matcher from a root node to a group of
nodes.
"""
