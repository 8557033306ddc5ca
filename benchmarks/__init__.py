"""Measures sdcomp against other runtimes, and its accuracy against the reference implementations.

docs/performance.md explains how to run them.
"""
