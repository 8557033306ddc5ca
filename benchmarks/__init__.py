"""Measures sdcomp against other runtimes, and its accuracy against the reference implementations. See docs/performance.md."""
