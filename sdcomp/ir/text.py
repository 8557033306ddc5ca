"""The text form of the IR: one node per line, values named `%number`.

    module    = "fact" name "=" string ... node ... graph ...
    graph     = "graph" name "{" node ... "return" name "=" value "," ... "}"
    node      = value "=" op "(" value "," ... ")" "{" name "=" attribute "," ... "}" ":" type
    attribute = integer | float | string | "true" | "false" | "(" number "," ... ")"

Each fact, node, `return` and brace stands on its own line. Empty parentheses and braces are left out; a
line that begins with "#" is a comment. Nodes that several graphs share stand before the first graph.
Strings are JSON's, floats are written so that they read back exactly.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from sdcomp.errors import ParseError
from sdcomp.ir.graph import Attribute, Graph, Module, Node
from sdcomp.ir.types import DType, TensorType

NAME = re.compile(r"[A-Za-z_][\w.@/-]*", re.ASCII)
"""Names of graphs, outputs, facts and attributes."""

_VALUE = re.compile(r"%\w+", re.ASCII)
_OP = re.compile(r"[a-z]\w*", re.ASCII)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_NUMBER = re.compile(r"-?(?:inf|nan|\d{1,400}(?:\.\d{1,400})?(?:e[+-]?\d{1,4})?)", re.ASCII)
_INTEGER = re.compile(r"-?\d+", re.ASCII)
_EXTENT = re.compile(r"\d{1,18}", re.ASCII)
_FLAG = re.compile(r"true\b|false\b")
_DTYPE = re.compile("|".join(dtype.value for dtype in DType))


def print_module(module: Module) -> str:
    """The text of `module`; `parse_module` reads it back to an equal one."""
    return "".join(f"{line}\n" for _, line in _lines(module))


def excerpt(module: Module, node: Node, around: int = 5) -> str:
    """The printed lines near `node`, which is marked; `around` before and after it."""
    lines = _lines(module)
    at = next(index for index, (printed, _) in enumerate(lines) if printed is node)
    near = range(max(at - around, 0), min(at + around + 1, len(lines)))
    return "\n".join(f"{'>' if index == at else ' '} {lines[index][1]}" for index in near)


def print_attribute(value: Attribute) -> str:
    """One attribute as text, exactly."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        inside = ", ".join(map(print_attribute, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    return repr(int(value)) if isinstance(value, int) else repr(float(value))


def _lines(module: Module) -> list[tuple[Node | None, str]]:
    """Every line, with the node that it defines."""
    lines: list[tuple[Node | None, str]] = [
        (None, f"fact {name} = {json.dumps(fact)}") for name, fact in module.facts.items()
    ]
    reached = Counter(node for graph in module for node in graph.nodes())
    numbers: dict[Node, int] = {}
    lines += [(node, _node_line(node, numbers)) for node, graphs in reached.items() if graphs > 1]
    for graph in module:
        lines += _graph_lines(graph, numbers)
    return lines


def _graph_lines(graph: Graph, numbers: dict[Node, int]) -> list[tuple[Node | None, str]]:
    own = [node for node in graph.nodes() if node not in numbers]
    body = [(node, f"  {_node_line(node, numbers)}") for node in own]
    outputs = ", ".join(f"{name} = %{numbers[node]}" for name, node in graph.outputs.items())
    return [(None, f"graph {graph.name} {{"), *body, (None, f"  return {outputs}"), (None, "}")]


def _node_line(node: Node, numbers: dict[Node, int]) -> str:
    numbers[node] = len(numbers)
    operands = ", ".join(f"%{numbers[operand]}" for operand in node.operands)
    attributes = ", ".join(
        f"{name} = {print_attribute(node.attributes[name])}" for name in sorted(node.attributes)
    )
    call = f"{node.op}({operands})" if operands else node.op
    braces = f" {{{attributes}}}" if attributes else ""
    return f"%{numbers[node]} = {call}{braces} : {node.type}"


def parse_module(text: str) -> Module:
    """The module that `text` describes. It is read, not checked: `sdcomp.ir.verify.verify` does that.

    Nodes that no output reaches are left out, as in any graph. Raises ParseError with the number of the
    line, the line, and what was expected.
    """
    lines = [
        _Line(number, line)
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    facts: dict[str, str] = {}
    shared: dict[str, Node] = {}
    graphs: dict[str, Graph] = {}
    remaining = iter(lines)
    for line in remaining:
        if line.skip("fact "):
            _parse_fact(line, facts)
        elif line.skip("graph "):
            graph = _parse_graph(line, remaining, shared, graphs)
            graphs[graph.name] = graph
        elif line.follows("%"):
            _parse_node(line, shared)
        else:
            raise line.error('"fact", "graph" or a node such as %1')
    return Module(tuple(graphs.values()), facts)


class _Line:
    """A cursor over one line. Blanks between words do not matter."""

    def __init__(self, number: int, text: str) -> None:
        self._number = number
        self._text = text
        self._position = 0

    def error(self, expected: str) -> ParseError:
        column = self._position + 1
        return ParseError(f"line {self._number}, column {column}: expected {expected}: {self._text.strip()}")

    def follows(self, word: str) -> bool:
        while self._text.startswith((" ", "\t", "\r"), self._position):
            self._position += 1
        return self._text.startswith(word, self._position)

    def skip(self, word: str) -> bool:
        """Whether `word` came next; it is passed if so."""
        found = self.follows(word)
        self._position += len(word) * found
        return found

    def expect(self, word: str) -> None:
        if not self.skip(word):
            raise self.error(f'"{word}"')

    def end(self) -> None:
        self.follows("")
        if self._position < len(self._text):
            raise self.error("the end of the line")

    def take(self, pattern: re.Pattern[str], expected: str) -> str:
        """The text that matches `pattern` here."""
        self.follows("")
        match = pattern.match(self._text, self._position)
        if match is None:
            raise self.error(expected)
        self._position = match.end()
        return match.group()

    def take_new(self, pattern: re.Pattern[str], taken: Iterable[str], expected: str) -> str:
        """The same, where it must not be one of `taken`."""
        self.follows("")
        start = self._position
        found = self.take(pattern, expected)
        if found in taken:
            self._position = start
            raise self.error(f"{expected} that is not defined yet")
        return found


def _parse_fact(line: _Line, facts: dict[str, str]) -> None:
    name = line.take_new(NAME, facts, "the name of a fact")
    line.expect("=")
    facts[name] = _parse_string(line)
    line.end()


def _parse_graph(
    header: _Line, remaining: Iterable[_Line], shared: Mapping[str, Node], graphs: Mapping[str, Graph]
) -> Graph:
    name = header.take_new(NAME, graphs, "the name of a graph")
    header.expect("{")
    header.end()
    nodes = dict(shared)
    for line in remaining:
        if line.skip("return "):
            outputs = _parse_outputs(line, nodes)
            break
        _parse_node(line, nodes)
    else:
        raise header.error('a "return" line in the graph')
    closing = next(iter(remaining), None)
    if closing is None:
        raise header.error('"}" after the "return" line')
    closing.expect("}")
    closing.end()
    return Graph(name, outputs)


def _parse_outputs(line: _Line, nodes: Mapping[str, Node]) -> dict[str, Node]:
    outputs: dict[str, Node] = {}
    more = True
    while more:
        name = line.take_new(NAME, outputs, "the name of an output")
        line.expect("=")
        outputs[name] = _parse_value(line, nodes)
        more = line.skip(",")
    line.end()
    return outputs


def _parse_node(line: _Line, nodes: dict[str, Node]) -> None:
    name = line.take_new(_VALUE, nodes, "a value such as %1")
    line.expect("=")
    op = line.take(_OP, "an operation")
    operands = _parse_operands(line, nodes)
    attributes = _parse_attributes(line)
    line.expect(":")
    nodes[name] = Node(op, operands, attributes, _parse_type(line))
    line.end()


def _parse_operands(line: _Line, nodes: Mapping[str, Node]) -> tuple[Node, ...]:
    if not line.skip("("):
        return ()
    operands: list[Node] = []
    while not line.skip(")"):
        if operands:
            line.expect(",")
        operands.append(_parse_value(line, nodes))
    return tuple(operands)


def _parse_value(line: _Line, nodes: Mapping[str, Node]) -> Node:
    name = line.take(_VALUE, "an operand such as %1")
    if name not in nodes:
        raise line.error(f"{name} to be defined above")
    return nodes[name]


def _parse_attributes(line: _Line) -> dict[str, Attribute]:
    attributes: dict[str, Attribute] = {}
    if not line.skip("{"):
        return attributes
    while not line.skip("}"):
        if attributes:
            line.expect(",")
        name = line.take_new(NAME, attributes, "the name of an attribute")
        line.expect("=")
        attributes[name] = _parse_attribute(line)
    return attributes


def _parse_attribute(line: _Line) -> Attribute:
    if line.follows('"'):
        return _parse_string(line)
    if line.follows("true") or line.follows("false"):
        return line.take(_FLAG, '"true" or "false"') == "true"
    return _parse_numbers(line) if line.skip("(") else _parse_number(line)


def _parse_numbers(line: _Line) -> Attribute:
    numbers: list[int | float] = []
    while not line.skip(")"):
        numbers.append(_parse_number(line))
        if not line.follows(")"):
            line.expect(",")
    return tuple(numbers)


def _parse_number(line: _Line) -> int | float:
    word = line.take(_NUMBER, "a number")
    return int(word) if _INTEGER.fullmatch(word) else float(word)


def _parse_string(line: _Line) -> str:
    literal = line.take(_STRING, "a string in double quotes")
    try:
        return str(json.loads(literal))
    except ValueError:
        raise line.error("a string that JSON can read") from None


def _parse_type(line: _Line) -> TensorType:
    dtype = DType(line.take(_DTYPE, "a type such as f32[1,77,768]"))
    line.expect("[")
    shape: list[int] = []
    while not line.skip("]"):
        if shape:
            line.expect(",")
        shape.append(int(line.take(_EXTENT, "an extent")))
    return TensorType(tuple(shape), dtype)
