"""Adapters, from files to plans of updates.

`reader` opens files, `suffixes` names tensors, `aliases` modules; one file per algorithm makes expressions,
`algorithms` lists them, `match` plans updates, `lint` doubts.
"""

from sdcomp.frontend.adapters.group import Group
from sdcomp.frontend.adapters.match import match
from sdcomp.frontend.adapters.reader import Adapter, open_adapter

__all__ = ["Adapter", "Group", "match", "open_adapter"]
