"""What a pass is."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from sdcomp.ir.graph import Graph, Module, Node
from sdcomp.ir.rewrite import Rule, rewrite


@dataclass(frozen=True)
class Pass(ABC):
    """One named rewrite of a module; options are the fields of its dataclass.

    Contract: given a valid module, `apply` returns a valid module that computes the same outputs from the
    same inputs; what it does beside that (new graphs, other names) its docstring says. It is pure: the module
    it was given is unchanged, and the result depends on nothing but the module and the options.
    """

    name: ClassVar[str]

    @abstractmethod
    def apply(self, module: Module) -> Module:
        """The rewritten module. Raises PassError where the pass cannot be applied."""


def rewrite_module(module: Module, rule: Rule) -> Module:
    """Rewrites all graphs together, so that a node shared between graphs (a weight) stays one node."""
    outputs = {
        (index, name): node for index, graph in enumerate(module) for name, node in graph.outputs.items()
    }
    names = {key: str(number) for number, key in enumerate(outputs)}
    whole = rewrite(Graph("module", {names[key]: node for key, node in outputs.items()}), rule)
    graphs: list[dict[str, Node]] = [{} for _ in module.graphs]
    for index, name in outputs:
        graphs[index][name] = whole.outputs[names[index, name]]
    return with_graphs(module, (Graph(graph.name, graphs[index]) for index, graph in enumerate(module)))


def with_graphs(module: Module, graphs: Iterable[Graph]) -> Module:
    """`module` with other graphs and the same facts."""
    return replace(module, graphs=tuple(graphs))
