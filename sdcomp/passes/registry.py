"""Passes by name, for `sdcomp opt`: `fold_constants{limit=64}`. A pass is imported when it is asked for.

`apply_adapters` is missing: what it needs is in adapter files, not in text.
"""

import re
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module

from sdcomp.errors import UsageError
from sdcomp.passes.base import Pass

CLASSES = {
    "fold_kronecker": "FoldKronecker",
    "split_rates": "SplitRates",
    "share_cfg_prefix": "ShareCfgPrefix",
    "fold_upsample": "FoldUpsample",
    "eliminate_common": "EliminateCommon",
    "eliminate_dead": "EliminateDead",
    "fold_constants": "FoldConstants",
    "pack_projections": "PackProjections",
    "rewrite_winograd": "RewriteWinograd",
    "expose_padding": "ExposePadding",
}
"""Pass name, which is also its module's name, to class name."""

_FORM = re.compile(r"([\w-]+)(?:\{(.*)\})?")
_FLAGS = {"true": True, "false": False}


def pass_names() -> list[str]:
    """Every name that `create_pass` knows."""
    return list(CLASSES)


def create_pass(text: str) -> Pass:
    """The pass that `name` or `name{option=value,option=value}` describes; `-` in names is read as `_`.

    Raises UsageError for an unknown name or option, or a value that does not fit.
    """
    form = _FORM.fullmatch(text.strip())
    if form is None:
        raise UsageError(f"pass {text!r}: expected NAME or NAME{{OPTION=VALUE,...}}")
    name = form[1].replace("-", "_")
    if name not in CLASSES:
        raise UsageError(f"pass {name}: no such pass; known are {', '.join(CLASSES)}")
    constructor: type[Pass] = getattr(import_module(f"sdcomp.passes.{name}"), CLASSES[name])
    return constructor(**_options(constructor, form[2] or ""))


def _options(constructor: type[Pass], text: str) -> dict[str, object]:
    plain = constructor()
    defaults = {field.name: getattr(plain, field.name) for field in fields(plain)}
    options: dict[str, object] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in defaults or not equals:
            known = ", ".join(f"{name}={default}" for name, default in defaults.items()) or "none"
            raise UsageError(f"pass {constructor.name}: no option {part.strip()!r}; its options are {known}")
        options[name] = _value(constructor.name, name, value, defaults[name])
    return options


def _value(pass_name: str, name: str, text: str, default: object) -> object:
    kind = type(default)
    parse: Callable[[str], object] = getattr(kind, "parse", kind)
    try:
        return _FLAGS[text] if kind is bool else parse(text)
    except (KeyError, ValueError):
        raise UsageError(
            f"pass {pass_name}: option {name} must be of kind {kind.__name__}, got {text!r}"
        ) from None
