"""The verifier: for every operation a text that it refuses, and one for every rule of graphs and modules."""

import re

import pytest

from sdcomp.errors import VerifyError
from sdcomp.ir.graph import Graph, Module
from sdcomp.ir.ops import OPS, build
from sdcomp.ir.text import parse_module
from sdcomp.ir.verify import verify

GRAPH = """\
graph g {{
  %map = input {{dtype = "f32", name = "map", rate = "eval", shape = (2, 4, 6, 8)}} : f32[2,4,6,8]
  %rows = input {{dtype = "f32", name = "rows", rate = "prompt", shape = (2, 5, 8)}} : f32[2,5,8]
  %time = input {{dtype = "f32", name = "time", rate = "step", shape = (1,)}} : f32[1]
  %ids = input {{dtype = "i32", name = "ids", rate = "prompt", shape = (2, 5)}} : i32[2,5]
  %matrix = weight {{dtype = "f16", file = "model", name = "matrix", shape = (3, 8)}} : f16[3,8]
  %kernel = weight {{dtype = "f16", file = "model", name = "kernel", shape = (3, 8, 3, 3)}} : f16[3,8,3,3]
  %vector = weight {{dtype = "f32", file = "model", name = "vector", shape = (8,)}} : f32[8]
  %y = {statement}
  return y = %y, vector = %vector
}}
"""

INVALID = {
    "input": ('input {dtype = "f32", name = "z", rate = "eval", shape = (2,)} : f32[3]', r"type is f32\[3\]"),
    "weight": (
        'weight {dtype = "f64", file = "model", name = "w", shape = (2,)} : f32[2]',
        "no such dtype 'f64'",
    ),
    "constant": ('constant {dtype = "f32", shape = (3,), values = (1, 2)} : f32[3]', "one value or 3, not 2"),
    "matmul": ("matmul(%rows, %kernel) : f32[2,5,3]", r"x\[\.\.\., K\] needs w\[N, K\]"),
    "conv2d": (
        "conv2d(%map, %kernel) {padding = (1, 1), stride = 1} : f32[2,4,6,3]",
        "top, left, bottom, right",
    ),
    "attention": ("attention(%rows, %rows, %rows) {causal = false, heads = 3} : f32[2,5,8]", "into 3 heads"),
    "kron": ("kron(%matrix, %matrix) : f32[9,8]", r"make f32\[9,64\]"),
    "winograd_filter": ("winograd_filter(%map) {m = 4, scale = 1} : f32[36,2,4]", r"needs w\[O,I,3,3\]"),
    "winograd_input": (
        "winograd_input(%map) {m = 3, scale = 1} : f32[25,2,8]",
        r"\(m, scale\) must be one of \[\(2, 1\), .*, got \(3, 1\)",
    ),
    "winograd_multiply": ("winograd_multiply(%rows, %map) : f32[2,5,6]", r"needs v\[S,T,I\] and u\[S,O,I\]"),
    "winograd_output": (
        "winograd_output(%rows) {m = 4, scale = 1, shape = (1, 4, 4, 8)} : f32[1,4,4,8]",
        "does not hold the tiles",
    ),
    "group_norm": (
        "group_norm(%map, %vector, %vector) {eps = 1e-05, groups = 3} : f32[2,4,6,8]",
        "into 3 groups",
    ),
    "layer_norm": ("layer_norm(%rows, %matrix, %vector) {eps = 1e-05} : f32[2,5,8]", r"must be \[8\]"),
    "softmax": ("softmax(%rows) {axis = 1} : f32[2,5,8]", r"attributes must be \[\], got \['axis'\]"),
    "add": ("add(%map, %rows) : f32[2,4,6,8]", "do not broadcast"),
    "mul": ("mul(%rows) : f32[2,5,8]", "takes 2 operands, got 1"),
    "silu": ("silu(%rows) : f32[2,5]", r"make f32\[2,5,8\]"),
    "gelu": ("gelu(%rows, %rows) : f32[2,5,8]", "takes 1 operand, got 2"),
    "quick_gelu": ("quick_gelu(%rows) : f16[2,5,8]", r"make f32\[2,5,8\]"),
    "sigmoid": ("sigmoid : f32[]", "takes 1 operand, got 0"),
    "tanh": ("tanh(%rows) {op = 1} : f32[2,5,8]", r"attributes must be \[\], got \['op'\]"),
    "reshape": ("reshape(%rows) {shape = (-2, -5, 8)} : f32[2,5,8]", "at least 1"),
    "transpose": ("transpose(%rows) {permutation = (0, 2, 2)} : f32[2,8,8]", "no permutation"),
    "concat": ("concat(%rows, %map) {axis = 2} : f32[2,5,16]", "differ off axis 2"),
    "slice": ("slice(%rows) {axis = 2, start = 4, stop = 9} : f32[2,5,5]", "4:9 is outside axis 2"),
    "broadcast_to": ("broadcast_to(%rows) {shape = (4, 5, 8)} : f32[4,5,8]", "do not broadcast"),
    "upsample_nearest": ("upsample_nearest(%map) {scale = 0} : f32[2,8,12,8]", "scale must be at least 1"),
    "pad": ("pad(%map) {padding = (0, 0, 0, -1)} : f32[2,4,5,8]", "none negative"),
    "gather": ("gather(%matrix, %rows) : f32[2,5,8]", "i32 indices"),
    "cast": ('cast(%rows) {dtype = "half"} : f16[2,5,8]', "no such dtype 'half'"),
    "div": ("div(%map, %rows) : f32[2,4,6,8]", "do not broadcast"),
    "minimum": ("minimum(%rows) : f32[2,5,8]", "takes 2 operands, got 1"),
    "norm": ("norm(%rows) {axes = (1, 3)} : f32[2,1,8]", r"\[1, 3\] are not axes of the operand"),
    "block_matmul": ("block_matmul(%rows, %matrix) : f32[2,5,3]", r"x\[B,M,K\] needs w\[B,N,K\]"),
    "skew": ("skew(%matrix) : f32[3,4,4]", r"needs x\[B,n\(n-1\)/2\]"),
    "cayley": ("cayley(%rows) : f32[2,5,8]", r"needs q\[B,n,n\]"),
    "timestep_embedding": (
        "timestep_embedding(%time) {channels = 7, max_period = 10000.0} : f32[1,7]",
        "not 7",
    ),
}
KINDS = {
    "integer": "slice(%rows) {axis = 2.0, start = 0, stop = 4} : f32[2,5,4]",
    "number": 'layer_norm(%rows, %vector, %vector) {eps = "1"} : f32[2,5,8]',
    "flag": "attention(%rows, %rows, %rows) {causal = 0, heads = 2} : f32[2,5,8]",
    "text": "cast(%rows) {dtype = 16} : f16[2,5,8]",
    "integers": "reshape(%rows) {shape = (10.0, 8)} : f32[10,8]",
    "numbers": 'constant {dtype = "f32", shape = (1,), values = 1.0} : f32[1]',
}
ZERO = {
    "stride": "conv2d(%map, %kernel) {padding = (1, 1, 1, 1), stride = 0} : f32[2,4,6,3]",
    "heads": "attention(%rows, %rows, %rows) {causal = false, heads = 0} : f32[2,5,8]",
    "groups": "group_norm(%map, %vector, %vector) {eps = 1e-05, groups = 0} : f32[2,4,6,8]",
}


def refusal(text: str) -> str:
    with pytest.raises(VerifyError) as caught:
        verify(parse_module(text))
    return str(caught.value)


def test_valid_graph_passes() -> None:
    verify(parse_module(GRAPH.format(statement="matmul(%rows, %matrix) : f32[2,5,3]")))


def test_there_is_an_invalid_text_for_every_operation() -> None:
    assert set(INVALID) == set(OPS)


@pytest.mark.parametrize("op", INVALID)
def test_invalid_operation_is_refused(op: str) -> None:
    statement, expected = INVALID[op]
    assert statement.startswith(op)
    message = refusal(GRAPH.format(statement=statement))
    assert message.startswith(f"graph g, {op}(")
    assert re.search(expected, message)
    marked = [line for line in message.splitlines() if line.startswith(">")]
    assert len(marked) == 1
    assert f"= {op}" in marked[0]


@pytest.mark.parametrize("kind", KINDS)
def test_attribute_of_another_kind_is_refused(kind: str) -> None:
    assert f"must be of kind {kind}" in refusal(GRAPH.format(statement=KINDS[kind]))


@pytest.mark.parametrize("attribute", ZERO)
def test_zero_is_refused(attribute: str) -> None:
    assert f"{attribute} must be at least 1, not 0" in refusal(GRAPH.format(statement=ZERO[attribute]))


def test_message_shows_operands_and_the_lines_around() -> None:
    lines = [f"%c{i} = silu(%rows) : f32[2,5,8]" for i in range(20)]
    lines += [f"%s{i} = add(%{'s' if i else 'c'}{i - 1 if i else 0}, %c{i}) : f32[2,5,8]" for i in range(20)]
    chain = "\n  ".join([*lines, "%y = add(%s19, %time) : f32[2,5,9]"])
    text = GRAPH.replace("%y = {statement}", "{statement}").format(statement=chain)
    head, *shown = refusal(text).splitlines()
    assert "add(add f32[2,5,8], input f32[1])" in head
    assert "f32[2,5,9]" in head
    assert len(shown) == 9
    assert shown[5].startswith(">   %")
    assert shown[-1] == "  }"


def test_unknown_operation_is_refused() -> None:
    assert "fuse: no such operation" in refusal(GRAPH.format(statement="fuse(%rows) : f32[1]"))


def test_two_inputs_of_one_name_are_refused() -> None:
    again = 'input {dtype = "f32", name = "rows", rate = "prompt", shape = (2, 5, 8)} : f32[2,5,8]'
    text = GRAPH.format(statement=again).replace("return y", "return z = %rows, y")
    assert "another input of this graph is named rows too" in refusal(text)


def test_input_of_unknown_rate_is_refused() -> None:
    statement = 'input {dtype = "f32", name = "z", rate = "often", shape = (2,)} : f32[2]'
    assert "rate must be one of model, prompt, step, eval, not 'often'" in refusal(
        GRAPH.format(statement=statement)
    )


def test_weight_of_two_types_is_refused() -> None:
    again = 'weight {dtype = "f32", file = "model", name = "vector", shape = (9,)} : f32[9]'
    assert "the same weight is f32[9] elsewhere" in refusal(GRAPH.format(statement=again))


def test_names_are_checked() -> None:
    node = build("constant", values=(1,), shape=(1,), dtype="f32")
    graph = Graph("g", {"y": node})
    modules = {
        "graph '1g': a name": Module((Graph("1g", {"y": node}),)),
        "graph g: output 'a b': a name": Module((Graph("g", {"a b": node}),)),
        "fact 'f=': a name": Module((graph,), {"f=": ""}),
        "graph g: there are 2": Module((graph, Graph("g", {"y": node}))),
        "graph g: has no outputs": Module((Graph("g", {}),)),
    }
    for expected, module in modules.items():
        with pytest.raises(VerifyError, match=re.escape(expected)):
            verify(module)
