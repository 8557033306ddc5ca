"""Descriptions of files (`describe`) as tables."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Group

from sdcomp.cli.debug import kernel_counts
from sdcomp.cli.live import totals
from sdcomp.cli.render_adapter import render_adapter
from sdcomp.cli.sections import lines, listed, stored
from sdcomp.cli.tables import bytes_text, columns, count_text, facts
from sdcomp.errors import ArtifactError

Description = Mapping[str, Any]


def render(description: Description) -> list[Group]:
    """The tables of one description. Raises ArtifactError for a manifest that the compiler did not write."""
    views: dict[str, Callable[[Description], Iterator[Group]]] = {
        "artifact": _artifact,
        "checkpoint": _checkpoint,
        "adapter": render_adapter,
    }
    try:
        return list(views[description["kind"]](description))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if description["kind"] != "artifact":
            raise
        problem = f"its manifest is malformed ({error!r})"
        raise ArtifactError(f"{description['file']}: {problem}; build it again") from None


def _artifact(description: Description) -> Iterator[Group]:
    manifest = description["manifest"]
    programs, checkpoint = manifest["programs"], manifest["checkpoint"]
    weights = (
        f"{bytes_text(manifest['weights_bytes'])} ({manifest['weights']}) in {description['weights_file']}"
    )
    yield facts(
        f"artifact {description['file']}",
        {
            "size": bytes_text(description["bytes"]),
            "weights": weights,
            "made by": f"sdcomp {manifest['sdcomp']}",
            "made from": f"{checkpoint['file']} ({manifest['family']}, predicts {manifest['prediction']})",
            "target": manifest["target"],
            "threads": str(manifest["threads"] or "all CPUs"),
            "picture sizes": ", ".join(f"{width}x{height}" for width, height in manifest["sizes"]),
            "arena peak": bytes_text(max(program["arena_bytes"] for program in programs)),
        },
    )
    yield from listed("licence and metadata", lines(checkpoint["metadata"]))
    yield from listed("assumed about the checkpoint", checkpoint["notes"])
    if manifest["adapters"]:
        title = f"adapters: {manifest['adapted_weights']} weights changed"
        columns_of = ("file", "strength", "of the text encoder", "modules", "applied")
        yield columns(title, columns_of, map(_applied, manifest["adapters"]))
    if manifest["live"]:
        orders = [(graph, order, str(n), count_text(m)) for graph, order, n, m in totals(manifest)]
        yield columns("live adapters, at most", ("graph", "evaluated", "weights", "MAC"), orders)
    yield from listed("modules of adapters that the model does not have", manifest["unmatched_modules"])
    header = ("program", "inputs", "outputs", "MAC", "weights", "arena", "scratch")
    yield columns("programs", header, map(_program, programs))
    algorithms = _algorithms(manifest["convolutions"])
    yield columns(f"convolutions, by {_costs(manifest)}", ("program", "algorithms"), algorithms)
    kernels = [(program["name"], kernel_counts(program)) for program in programs]
    yield columns("kernels", ("program", "kernels"), kernels)


def _applied(adapter: Description) -> tuple[str, ...]:
    strengths = (f"{adapter[name]:g}" for name in ("strength", "te_strength"))
    how = f"live, --adapter {adapter['name']}=..." if adapter["live"] else "folded in"
    return (adapter["file"], *strengths, str(adapter["modules"]), how)


def _program(program: Description) -> tuple[str, ...]:
    return (
        program["name"],
        _tensors(program["inputs"]),
        _tensors(program["outputs"]),
        count_text(program["multiplies"]),
        bytes_text(program["weights_bytes"]),
        bytes_text(program["arena_bytes"]),
        bytes_text(program["scratch_bytes"]),
    )


def _costs(manifest: Description) -> str:
    return f"{manifest['costs']['source']} costs of {manifest['costs']['cpu']}"


def _algorithms(convolutions: list[Description]) -> list[tuple[str, str]]:
    """`F(4,3) 37, F(2,3) 7` for every program with convolutions, most frequent first."""
    counts: dict[str, Counter[str]] = {}
    for choice in convolutions:
        counts.setdefault(choice["program"], Counter())[choice["algorithm"]] += 1
    return [
        (program, ", ".join(f"{name} {count}" for name, count in found.most_common()))
        for program, found in counts.items()
    ]


def _tensors(tensors: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in tensors.items()) or "state"


def _checkpoint(description: Description) -> Iterator[Group]:
    yield facts(
        f"checkpoint {description['file']}",
        {
            "size": bytes_text(description["bytes"]),
            "family": description["family"],
            "predicts": description["prediction"],
            "left out": f"{description['ignored']} tensors of bookkeeping",
        },
    )
    networks = [
        (name, str(network["tensors"]), count_text(network["parameters"]))
        for name, network in description["networks"].items()
    ]
    yield columns("networks", ("network", "tensors", "parameters"), networks)
    yield stored(description["stored"])
    for name, settings in description["architecture"].items():
        known = {key: value for key, value in settings.items() if value is not None}
        yield facts(name, {key.replace("_", " "): _setting(value) for key, value in known.items()})
    yield from listed("licence and metadata", lines(description["metadata"]))
    yield from listed("assumed", description["notes"])


def _setting(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
