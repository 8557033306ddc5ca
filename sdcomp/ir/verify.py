"""The verifier: what every pass may assume of a module, and must leave behind."""

from collections import Counter
from collections.abc import Iterable

from sdcomp.errors import VerifyError
from sdcomp.ir.graph import RATES, Graph, Module, Node
from sdcomp.ir.ops import build
from sdcomp.ir.text import NAME, excerpt
from sdcomp.ir.types import TensorType


def verify(module: Module) -> None:
    """Checks that `module` obeys the rules of the IR.

    - Every node is one of the op table: its arity, the names and kinds of its attributes, and its type as
    the shape rule infers it. - Graphs have unique names, and at least one output each. Names of graphs,
    outputs and facts can be printed. - Within a graph no two inputs have the same name, and every input
    has a known rate. - A weight, by file and name, has the same type everywhere.

    Raises VerifyError: what is wrong, the operation and its operands, and the printed lines around it.
    """
    _check_names("graph", [graph.name for graph in module])
    _check_names("fact", module.facts)
    checked: set[Node] = set()
    weights: dict[tuple[str, str], TensorType] = {}
    for graph in module:
        nodes = graph.nodes()
        for node in nodes:
            if node not in checked:
                _check_node(module, graph, node)
                _check_weight(module, graph, node, weights)
        checked.update(nodes)
        _check_graph(module, graph)


def _check_names(kind: str, names: Iterable[str]) -> None:
    for name, times in Counter(list(names)).items():
        if not NAME.fullmatch(name):
            raise VerifyError(f"{kind} {name!r}: a name is a letter, then letters, digits and any of _.@/-")
        if times > 1:
            raise VerifyError(f"{kind} {name}: there are {times} of this name; names must be unique")


def _check_graph(module: Module, graph: Graph) -> None:
    if not graph.outputs:
        raise VerifyError(f"graph {graph.name}: has no outputs; a graph is what its outputs reach")
    _check_names(f"graph {graph.name}: output", graph.outputs)
    seen: set[str] = set()
    for node in graph.inputs():
        name, rate = node.text("name"), node.text("rate")
        if rate not in RATES:
            raise _fault(module, graph, node, f"rate must be one of {', '.join(RATES)}, not {rate!r}")
        if name in seen:
            raise _fault(module, graph, node, f"another input of this graph is named {name} too")
        seen.add(name)


def _check_node(module: Module, graph: Graph, node: Node) -> None:
    try:
        inferred = build(node.op, *node.operands, **dict(node.attributes)).type
    except VerifyError as error:
        raise _fault(module, graph, node, str(error)) from None
    if inferred != node.type:
        raise _fault(module, graph, node, f"its type is {node.type}, but its operands make {inferred}")


def _check_weight(
    module: Module, graph: Graph, node: Node, weights: dict[tuple[str, str], TensorType]
) -> None:
    if node.op != "weight":
        return
    known = weights.setdefault((node.text("file"), node.text("name")), node.type)
    if known != node.type:
        raise _fault(module, graph, node, f"the same weight is {known} elsewhere")


def _fault(module: Module, graph: Graph, node: Node, reason: str) -> VerifyError:
    operands = ", ".join(f"{operand.op} {operand.type}" for operand in node.operands)
    where = f"graph {graph.name}, {node.op}({operands})"
    return VerifyError(f"{where}: {reason}\n{excerpt(module, node)}")
