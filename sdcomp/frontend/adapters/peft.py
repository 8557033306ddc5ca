"""PEFT's configuration of an adapter: `adapter_config.json` beside the file, or diffusers' metadata.

diffusers keeps the same fields as JSON in the metadata key `lora_adapter_metadata`, each with the name of its
component before it (`unet.lora_alpha`). Alphas are only there, never in tensors.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any

from sdcomp.errors import AdapterError
from sdcomp.frontend.adapters.group import Facts
from sdcomp.frontend.safetensors import quoted

PREFIX = "base_model.model."
"""PEFT puts this before the names of the modules of whatever model it wrapped."""

CONFIG_NAME = "adapter_config.json"
METADATA_KEY = "lora_adapter_metadata"
COMPONENTS = ("unet", "text_encoder", "text_encoder_2")

MAX_CONFIG_BYTES = 1 << 20
MAX_TERMS = 64
MOST = 1e300
"""Numbers of a configuration; JSON has integers that no float holds."""

_PLAIN_PATTERN = re.compile(r"\^?(?:[\w-]|\\?\.)+\$?")
_TYPES = {"LORA": ("lora_alpha", "r"), "LOHA": ("alpha", "r"), "LOKR": ("alpha", "r")}


@dataclass(frozen=True)
class PeftConfig:
    """The fields of one configuration; `source` is the file it is from."""

    source: Path
    fields: Mapping[str, Any]

    def scale(self, module: str) -> float | None:
        """lora_alpha / r of a module, / sqrt(r) with use_rslora; None where PEFT scales nothing.

        Raises AdapterError for values that are no such numbers.
        """
        kind = str(self.fields.get("peft_type", "LORA"))
        if kind not in _TYPES:
            return None
        alpha_name, rank_name = _TYPES[kind]
        alpha = self._for_module("alpha_pattern", module, self._number(alpha_name))
        rank = self._for_module("rank_pattern", module, self._number(rank_name))
        if alpha < 0 or rank < 1:
            raise self._error(
                f"{alpha_name} {alpha:g} and {rank_name} {rank:g} of {quoted(module)} make no scale"
            )
        return alpha / (sqrt(rank) if self.fields.get("use_rslora") else rank)

    @cached_property
    def facts(self) -> Facts:
        """What OFT and (IA)3 need to know, with PEFT's defaults from when a field was missing."""
        is_neumann = bool(self.fields.get("use_cayley_neumann", False))
        terms = self._number("num_cayley_neumann_terms") if is_neumann else 0
        if not 0 <= terms <= MAX_TERMS or (is_neumann and terms < 1):
            raise self._error(f"num_cayley_neumann_terms must be 1 to {MAX_TERMS}, not {terms:g}")
        feedforward = self.fields.get("feedforward_modules")
        return replace(
            Facts(),
            neumann_terms=int(terms),
            coft_eps=self._number("eps") if self.fields.get("coft") else None,
            feedforward=tuple(map(str, feedforward)) if isinstance(feedforward, list) else None,
        )

    def changes_base(self) -> str | None:
        """How the training changed the base weights too, so that the file alone is not enough, or None."""
        init = str(self.fields.get("init_lora_weights", "")).lower()
        return init if init.startswith(("pissa", "corda", "olora")) else None

    def _number(self, name: str) -> float:
        return self._checked(name, self.fields.get(name))

    def _checked(self, name: str, value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) <= MOST:
            raise self._error(f"{name} must be a finite number, found {quoted(repr(value))}")
        return float(value)

    def _for_module(self, name: str, module: str, default: float) -> float:
        """PEFT takes patterns for regular expressions of how a module's name ends; here they are names.

        The first that fits counts.
        """
        patterns = self._patterns[name]
        parts = module.split(".")
        endings = (".".join(parts[start:]) for start in range(len(parts)))
        fitting = [patterns[key] for key in (f"^{module}", *endings) if key in patterns]
        return min(fitting)[1] if fitting else default

    @cached_property
    def _patterns(self) -> dict[str, dict[str, tuple[int, float]]]:
        """By field and name of a module: place in the file, and number."""
        return {name: self._numbered(name) for name in ("alpha_pattern", "rank_pattern")}

    def _numbered(self, name: str) -> dict[str, tuple[int, float]]:
        patterns = self.fields.get(name) or {}
        if not isinstance(patterns, dict):
            raise self._error(f"{name} must map names of modules to numbers")
        numbered: dict[str, tuple[int, float]] = {}
        for place, (pattern, value) in enumerate(patterns.items()):
            if _PLAIN_PATTERN.fullmatch(pattern) is None:
                raise self._error(
                    f"{name} has the regular expression {quoted(pattern)}; names of modules are understood"
                )
            plain = pattern.replace("\\.", ".").rstrip("$")
            numbered.setdefault(plain, (place, self._checked(name, value)))
        return numbered

    def _error(self, reason: str) -> AdapterError:
        return AdapterError(f"{self.source}: {reason}")


def read_configs(path: Path, metadata: Mapping[str, str], is_peft: bool) -> dict[str, PeftConfig]:
    """The configurations of an adapter file by component, "" for any; empty where there is none.

    `is_peft`: the file's names are PEFT's, so that a configuration beside it is its own. Raises AdapterError
    for one that is not a JSON object, or larger than any that PEFT writes.
    """
    if METADATA_KEY in metadata:
        return _by_component(path, _parsed(path, metadata[METADATA_KEY]))
    beside = path.with_name(CONFIG_NAME)
    if not is_peft or not beside.is_file():
        return {}
    with beside.open("rb") as file:
        text = file.read(MAX_CONFIG_BYTES + 1)
    return {"": PeftConfig(beside, _parsed(beside, text))}


def config_of(module: str, configs: Mapping[str, PeftConfig]) -> PeftConfig | None:
    """The configuration that a module's name belongs to."""
    component = module.split(".", 1)[0]
    return configs.get(component, configs.get(""))


def bare(module: str) -> str:
    """A module's name in the model that PEFT wrapped."""
    for component in COMPONENTS:
        module = module.removeprefix(f"{component}.")
    return module.removeprefix(PREFIX)


def _parsed(source: Path, text: str | bytes) -> dict[str, Any]:
    if len(text) > MAX_CONFIG_BYTES:
        raise AdapterError(
            f"{source}: the configuration of the adapter is longer than {MAX_CONFIG_BYTES} bytes"
        )
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{source}: the adapter's configuration is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise AdapterError(f"{source}: the adapter's configuration must be a JSON object")
    return found


def _by_component(source: Path, fields: Mapping[str, Any]) -> dict[str, PeftConfig]:
    parts: dict[str, dict[str, Any]] = {}
    for name, value in fields.items():
        component, _, rest = name.partition(".")
        if rest and component in COMPONENTS:
            parts.setdefault(component, {})[rest] = value
        else:
            parts.setdefault("", {})[name] = value
    return {component: PeftConfig(source, found) for component, found in parts.items()}
