"""What `sdcomp inspect` finds in a file, as JSON-ready data; `kind` says which of the three kinds it is."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdcomp.errors import LoadError, UsageError
from sdcomp.frontend.adapters.match import match
from sdcomp.frontend.adapters.reader import Adapter, open_adapter
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
        return "adapter" if any(re.match(ADAPTER, name) for name in file.entries) else "checkpoint"


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
    with open_adapter(path) as adapter:
        file = adapter.file
        stored: dict[str, dict[str, int]] = {}
        for entry in file.entries.values():
            count = stored.setdefault(entry.dtype, {"tensors": 0, "bytes": 0})
            count["tensors"] += 1
            count["bytes"] += entry.end - entry.begin
        return {
            "algorithms": dict(Counter(group.algorithm for group in adapter.groups)),
            "modules": len(adapter.groups),
            "parameters": sum(kind.elements for group in adapter.groups for kind in group.factors.values()),
            "stored": stored,
            "metadata": _training_facts(file.metadata),
            **({} if model is None else {"match": _match(adapter, model)}),
        }


def _training_facts(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name: metadata[name][:_LONGEST_FACT] for name in _TRAINING_FACTS if name in metadata}


def _match(adapter: Adapter, model: Path) -> dict[str, Any]:
    with Checkpoint.open(model) as checkpoint:
        plan = match([adapter], detect(checkpoint), allow_unmatched=True)
    return {"model": str(model), "weights": sorted(plan.updates), "unmatched": list(plan.unmatched)}
