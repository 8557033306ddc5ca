"""Adapters: `reader` opens them, `aliases` names modules, `lokr` makes expressions, `match` plans updates."""

from sdcomp.frontend.adapters.match import match
from sdcomp.frontend.adapters.reader import Adapter, Group, open_adapter

__all__ = ["Adapter", "Group", "match", "open_adapter"]
