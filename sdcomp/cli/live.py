"""What a build chose for live adapters, from an artifact's manifest."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Evaluation:
    """How one adapter's change of one weight is computed in one graph, and its multiply-accumulates."""

    graph: str
    weight: str
    order: str
    multiplies: int


def evaluations(manifest: Mapping[str, Any]) -> Iterator[Evaluation]:
    """Every change by a live adapter, graph by graph."""
    for graph, weights in manifest["live"].items():
        for weight, text in weights.items():
            for part in text.split("; "):
                order, _, count = part.rpartition(": ")
                yield Evaluation(graph, weight, order, int(count))


def totals(manifest: Mapping[str, Any]) -> list[tuple[str, str, int, int]]:
    """Graph, order, number of changes and multiply-accumulates of each order in each graph."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for each in evaluations(manifest):
        count, multiplies = found.get((each.graph, each.order), (0, 0))
        found[each.graph, each.order] = (count + 1, multiplies + each.multiplies)
    return [(*key, *value) for key, value in found.items()]
