"""What `sdcomp inspect` finds in a file, as JSON-ready data; `kind` says which of the three kinds it is."""

import re
from collections import Counter
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from sdcomp.errors import LoadError, UsageError
from sdcomp.frontend.adapters.aliases import Target, module_aliases
from sdcomp.frontend.adapters.lint import warnings_of
from sdcomp.frontend.adapters.match import CONTEXT_FAMILIES, trained_context_channels
from sdcomp.frontend.adapters.reader import open_adapter
from sdcomp.frontend.adapters.suffixes import ALGORITHM_OF, split_key
from sdcomp.frontend.adapters.survey import NOT_IN_MODEL, Finding, survey
from sdcomp.frontend.checkpoint import Checkpoint
from sdcomp.frontend.family import ADAPTER, detect
from sdcomp.frontend.family import describe as describe_model
from sdcomp.frontend.safetensors import SafetensorsFile
from sdcomp.runtime.manifest import is_library, read_manifest
from sdcomp.runtime.payload import find_payload

_TRAINING_FACTS = (
    "ss_base_model_version",
    "ss_network_module",
    "ss_output_name",
    "modelspec.title",
    "modelspec.license",
)
_LONGEST_FACT = 200


def describe(path: Path, model: Path | None = None) -> dict[str, Any]:
    """The description of an artifact, a checkpoint, or an adapter, matched with the checkpoint `model`.

    Nothing in the files is executed. Raises LoadError, FamilyError, AdapterError or ArtifactError for a file
    that is damaged or of no such kind, UsageError for a `model` that the file cannot be matched with.
    """
    if not path.is_file():
        raise LoadError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
    kind = _kind(path)
    if model is not None and kind != "adapter":
        raise UsageError(
            f"--model is for adapters, but {path} is {'an' if kind == 'artifact' else 'a'} {kind}"
        )
    facts = {"adapter": _adapter, "checkpoint": _checkpoint, "artifact": _artifact}[kind](path, model)
    return {"kind": kind, "file": str(path), "bytes": path.stat().st_size, **facts}


def _kind(path: Path) -> str:
    if is_library(path):
        return "artifact"
    with SafetensorsFile(path) as file:
        return "adapter" if any(map(_is_adapters, file.entries)) else "checkpoint"


def _is_adapters(name: str) -> bool:
    """Whether a tensor of this name is an adapter's, by prefix or suffix; `weight` alone is (IA)3's too."""
    split = split_key(name)
    has_suffix = split is not None and split[1] != "weight" and split[1] in ALGORITHM_OF
    return has_suffix or re.match(ADAPTER, name) is not None


def _artifact(path: Path, model: Path | None) -> dict[str, Any]:
    del model
    payload, _ = find_payload(path)
    return {"weights_file": str(payload), "manifest": read_manifest(path)}


def _checkpoint(path: Path, model: Path | None) -> dict[str, Any]:
    del model
    with Checkpoint.open(path) as checkpoint:
        config = detect(checkpoint)
        networks = {"unet": vars(config.unet), "text encoder": vars(config.text), "vae": vars(config.vae)}
        return {
            **describe_model(checkpoint, config),
            "ignored": len(checkpoint.ignored),
            "architecture": networks,
        }


def _adapter(path: Path, model: Path | None) -> dict[str, Any]:
    aliases = None if model is None else _aliases(model)
    with open_adapter(path) as adapter:
        findings = survey(adapter, aliases)
        channels = trained_context_channels(adapter)
        return {
            "algorithms": dict(Counter(found.algorithm for found in findings)),
            "modules": len({found.module for found in findings}),
            "parameters": sum(kind.elements for group in adapter.groups for kind in group.factors.values()),
            "looks_made_for": None if channels is None else CONTEXT_FAMILIES[channels],
            "stored": _stored(adapter.file),
            "metadata": _training_facts(adapter.file.metadata),
            "warnings": list(warnings_of(adapter)),
            "adapted": [_finding(found) for found in findings],
            **({} if model is None else {"match": _match(findings, model)}),
        }


def _aliases(model: Path) -> dict[str, Target]:
    with Checkpoint.open(model) as checkpoint:
        return module_aliases(detect(checkpoint))


def _stored(file: SafetensorsFile) -> dict[str, dict[str, int]]:
    stored: dict[str, dict[str, int]] = {}
    for entry in file.entries.values():
        count = stored.setdefault(entry.dtype, {"tensors": 0, "bytes": 0})
        count["tensors"] += 1
        count["bytes"] += entry.end - entry.begin
    return stored


def _finding(found: Finding) -> dict[str, Any]:
    """JSON has no infinity or NaN: such an alpha is text."""
    alpha = found.alpha
    return {**vars(found), "alpha": alpha if alpha is None or isfinite(alpha) else str(alpha)}


def _training_facts(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name: metadata[name][:_LONGEST_FACT] for name in _TRAINING_FACTS if name in metadata}


def _match(findings: list[Finding], model: Path) -> dict[str, Any]:
    problems = {found.module: found.problem for found in findings if found.problem is not None}
    missing = [module for module, problem in problems.items() if problem == NOT_IN_MODEL]
    return {
        "model": str(model),
        "weights": sorted({name for found in findings for name in found.weights}),
        "unmatched": missing,
        "problems": {module: problem for module, problem in problems.items() if module not in missing},
    }
