"""The text form: lowered graphs survive a round trip; text that cannot be read is refused with its place."""

import math

import pytest

from sdcomp.errors import ParseError
from sdcomp.frontend.lower import lower_model
from sdcomp.ir.compare import equal
from sdcomp.ir.graph import Attribute, Graph, Module, Node
from sdcomp.ir.ops import build
from sdcomp.ir.text import parse_module, print_module
from sdcomp.ir.types import TensorType
from sdcomp.ir.verify import verify
from tests.frontend.test_lower import small_model

LINEAR = """\
fact family = "sd1"
%0 = weight {dtype = "f16", file = "model", name = "w", shape = (4, 3)} : f16[4,3]
graph first@2 {
  %1 = input {dtype = "f32", name = "x", rate = "eval", shape = (2, 3)} : f32[2,3]
  %2 = matmul(%1, %0) : f32[2,4]
  return y = %2, x = %1
}
graph second {
  %3 = constant {dtype = "f32", shape = (1, 3), values = (0.1, 2, 0.3)} : f32[1,3]
  %4 = matmul(%3, %0) : f32[1,4]
  %5 = weight {dtype = "f32", file = "model", name = "norm", shape = (4,)} : f32[4]
  %6 = layer_norm(%4, %5, %5) {eps = 1e-05} : f32[1,4]
  return y = %6
}
"""


def test_every_lowered_graph_survives() -> None:
    config, types = small_model()
    module = lower_model(config, types, [(32, 16), (16, 16)])
    text = print_module(module)
    parsed = parse_module(text)
    verify(parsed)
    assert equal(module, parsed)
    assert print_module(parsed) == text


def test_printed_text_is_as_documented() -> None:
    assert print_module(parse_module(LINEAR)) == LINEAR


def test_comments_blank_lines_and_names_are_free() -> None:
    text = LINEAR.replace("%2", "%product").replace("graph second", "\n# the second\n\r\ngraph  second")
    assert equal(parse_module(text), parse_module(LINEAR))


def single(**attributes: Attribute) -> Module:
    return Module((Graph("g", {"y": Node("any", (), attributes, TensorType((1,)))}),))


@pytest.mark.parametrize(
    "value",
    [
        0,
        -(10**30),
        0.1,
        -0.0,
        1e-300,
        5e-324,
        1.0,
        1e22,
        math.inf,
        -math.inf,
        math.nan,
        True,
        False,
        "",
        'quoted "text", \\ and } : f32[1]\n\t\x00 é 漢 \ud800',
        (),
        (1,),
        (1, -2),
        (0.5, 1.0, math.nan),
    ],
    ids=repr,
)
def test_attribute_survives(value: Attribute) -> None:
    module = single(value=value)
    parsed = parse_module(print_module(module))
    assert equal(module, parsed)
    (node,) = parsed.graphs[0].nodes()
    assert repr(node.attributes["value"]) == repr(value)


BROKEN = {
    "not a line": ("graph first@2 {", "grph first@2 {", 3, '"fact", "graph" or a node'),
    "fact without quotes": ('"sd1"', "sd1", 1, "a string in double quotes"),
    "bad escape": ('"sd1"', r'"\x"', 1, "a string that JSON can read"),
    "fact twice": ('fact family = "sd1"', 'fact a = ""\nfact a = ""', 2, "a fact that is not defined yet"),
    "graph twice": ("graph second", "graph first@2", 8, "a graph that is not defined yet"),
    "value twice": ("%2 = matmul(", "%1 = matmul(", 5, "that is not defined yet"),
    "undefined operand": ("matmul(%1, %0)", "matmul(%1, %7)", 5, "%7 to be defined above"),
    "operand of another graph": ("matmul(%3, %0)", "matmul(%1, %0)", 10, "%1 to be defined above"),
    "no operand": ("matmul(%1, %0)", "matmul(%1, )", 5, "an operand such as %1"),
    "no comma": ("matmul(%1, %0)", "matmul(%1 %0)", 5, '","'),
    "unclosed operands": ("matmul(%1, %0)", "matmul(%1, %0", 5, '","'),
    "no operation": ("%2 = matmul", "%2 = 3matmul", 5, "an operation"),
    "no type": (" : f32[2,4]", "", 5, '":"'),
    "unknown dtype": ("f32[2,4]", "f64[2,4]", 5, "a type such as"),
    "negative extent": ("f32[2,4]", "f32[2,-4]", 5, "an extent"),
    "endless extent": ("f32[2,4]", f"f32[{'9' * 19}]", 5, '","'),
    "more after the node": ("f32[2,4]", "f32[2,4] x", 5, "the end of the line"),
    "attribute twice": ("shape = (2, 3)", 'name = "y"', 4, "an attribute that is not defined yet"),
    "attribute without value": ("shape = (2, 3)", "shape = ", 4, "a number"),
    "attribute that is no flag": ("shape = (2, 3)", "shape = trueish", 4, '"true" or "false"'),
    "unclosed tuple": ("shape = (2, 3)", "shape = (2, 3", 4, '","'),
    "nested tuple": ("shape = (2, 3)", "shape = ((2), 3)", 4, "a number"),
    "no outputs": ("return y = %2, x = %1", "return ", 6, "the name of an output"),
    "output twice": ("return y = %2, x = %1", "return y = %2, y = %1", 6, "that is not defined yet"),
    "undefined output": ("return y = %2", "return y = %9", 6, "%9 to be defined above"),
    "no return": ("  return y = %2, x = %1\n", "", 6, "a value such as %1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_text_is_refused(name: str) -> None:
    old, new, line, expected = BROKEN[name]
    assert old in LINEAR
    with pytest.raises(ParseError) as caught:
        parse_module(LINEAR.replace(old, new, 1))
    message = str(caught.value)
    assert message.startswith(f"line {line}, column ")
    assert expected in message.split("expected ", 1)[1]


@pytest.mark.parametrize(
    ("text", "expected"), [("graph g {", '"return"'), ("graph g {\n return a = %0", "%0")]
)
def test_text_that_ends_early_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ParseError, match=expected):
        parse_module(text)


def test_unclosed_graph_is_refused() -> None:
    with pytest.raises(ParseError, match=r'line 8, column 15: expected "}"'):
        parse_module(LINEAR.rstrip("}\n"))


def test_nodes_that_no_output_reaches_are_left_out() -> None:
    module = parse_module(LINEAR.replace("return y = %2, x = %1", "return x = %1"))
    assert [node.op for node in module.graphs[0].nodes()] == ["input"]


CHANGES = {
    "fact": ('"sd1"', '"sd2"'),
    "graph name": ("graph second", "graph other"),
    "output name": ("return y = %6", "return z = %6"),
    "output order": ("return y = %2, x = %1", "return x = %1, y = %2"),
    "output node": ("return y = %2, x = %1", "return y = %2, x = %2"),
    "attribute": ("eps = 1e-05", "eps = 1e-06"),
    "kind of attribute": ("(0.1, 2, 0.3)", "(0.1, 2.0, 0.3)"),
    "type": ("f32[2,4]", "f32[2,5]"),
    "operation": ("matmul(%1", "kron(%1"),
    "operand order": ("matmul(%1, %0)", "matmul(%0, %1)"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_module_is_not_equal(name: str) -> None:
    old, new = CHANGES[name]
    assert old in LINEAR
    assert not equal(parse_module(LINEAR), parse_module(LINEAR.replace(old, new)))


def test_sharing_counts() -> None:
    def module(*weights: Node) -> Module:
        return Module(tuple(Graph(f"g{i}", {"y": weight}) for i, weight in enumerate(weights)))

    a, b = (build("weight", name="w", file="model", shape=(1,), dtype="f32") for _ in range(2))
    assert equal(module(a, b), module(b, a))
    assert equal(module(a, a), module(b, b))
    assert not equal(module(a, b), module(a, a))
    assert not equal(module(a, a), module(a, b))
