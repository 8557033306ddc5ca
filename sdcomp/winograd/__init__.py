"""Winograd's minimal filtering (Winograd 1980; Lavin and Gray 2016): exact matrices, shared by IR and
kernels.
"""
