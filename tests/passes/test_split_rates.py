"""split_rates against expected programs, and run one after the other against the uncut network."""

from collections.abc import Mapping

from sdcomp.frontend.family import expected_tensors
from sdcomp.frontend.lower import lower_model
from sdcomp.ir.compare import equal
from sdcomp.ir.graph import Graph, Module
from sdcomp.ir.interpret import interpret
from sdcomp.ir.ops import build
from sdcomp.ir.rates import node_rates
from sdcomp.ir.types import TensorType
from sdcomp.ir.verify import verify
from sdcomp.passes.split_rates import SplitRates, network_name, program_name
from tests.checkpoints import SMALL
from tests.passes.graphs import Array, check, error, module, random_array, source, weight


def _split(graph: Graph) -> Module:
    before = module(graph)
    verify(before)
    after = SplitRates().apply(before)
    verify(after)
    return after


def _run(programs: Module, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of all programs, slowest first, each fed from `inputs` and the values carried so far."""
    known = dict(inputs)
    for graph in programs:
        known |= interpret(
            graph, {n.text("name"): known[n.text("name")] for n in graph.inputs()}, random_array
        )
    return known


def _compare(graph: Graph, programs: Module) -> None:
    inputs = {node.text("name"): random_array(node) for node in graph.inputs()}
    reference, found = interpret(graph, inputs, random_array), _run(programs, inputs)
    for name, value in reference.items():
        assert error(found[name], value) < 1e-12


def test_each_rate_gets_its_program() -> None:
    prompt, step, latent = source("p", (2, 4), "prompt"), source("s", (1, 4), "step"), source("x", (1, 4))
    w = weight("w", (4, 4))
    key, time = build("matmul", prompt, w), build("silu", step)
    both = build("add", build("mul", latent, time), key)
    graph = Graph("unet@64x32x2", {"y": build("add", both, build("matmul", time, w))})
    programs = _split(graph)

    carried_key = source("carry.prompt.0", (2, 4), "prompt")
    carried_time = source("carry.step.0", (1, 4), "step")
    carried_product = source("carry.step.1", (1, 4), "step")
    y = build("add", build("add", build("mul", latent, carried_time), carried_key), carried_product)
    expected = module(
        Graph("unet.prompt@64x32x2", {"carry.prompt.0": key}),
        Graph("unet.step@64x32x2", {"carry.step.0": time, "carry.step.1": build("matmul", time, w)}),
        Graph("unet@64x32x2", {"y": y}),
    )
    assert equal(programs, expected)
    assert programs.graphs[0].nodes()[1] is w
    _compare(graph, programs)


def test_a_slow_value_reaches_every_faster_program() -> None:
    prompt, step, latent = source("p", (4,), "prompt"), source("s", (4,), "step"), source("x", (4,))
    slow = build("silu", prompt)
    middle = build("add", slow, step)
    programs = _split(graph := Graph("n", {"y": build("add", build("mul", latent, middle), slow)}))
    assert [g.name for g in programs] == ["n.prompt", "n.step", "n"]
    assert [[i.text("name") for i in g.inputs()] for g in programs] == [
        ["p"],
        ["carry.prompt.0", "s"],
        ["x", "carry.step.0", "carry.prompt.0"],
    ]
    _compare(graph, programs)


def test_views_are_repeated_and_what_is_under_them_is_carried() -> None:
    step, latent = source("s", (1, 8), "step"), source("x", (1, 2, 3, 8))
    time = build("silu", step)
    spread = build("broadcast_to", build("reshape", time, shape=(1, 1, 1, 8)), shape=(1, 2, 3, 8))
    programs = _split(graph := Graph("n", {"y": build("add", latent, spread)}))
    carry = source("carry.step.0", (1, 8), "step")
    spread = build("broadcast_to", build("reshape", carry, shape=(1, 1, 1, 8)), shape=(1, 2, 3, 8))
    fast = Graph("n", {"y": build("add", latent, spread)})
    assert equal(programs, module(Graph("n.step", {"carry.step.0": time}), fast))
    _compare(graph, programs)


def test_a_slow_input_is_read_where_it_is_used() -> None:
    step, latent = source("s", (4,), "step"), source("x", (4,))
    same = module(Graph("n", {"y": build("add", latent, step)}))
    check(SplitRates(), same, same)


def test_outputs_belong_to_the_program_of_their_rate() -> None:
    step, latent = source("s", (4,), "step"), source("x", (4,))
    time, table = build("silu", step), weight("w", (4,))
    outputs = {"time": time, "y": build("add", latent, time), "table": build("silu", table)}
    programs = _split(graph := Graph("n", outputs))
    assert [list(g.outputs) for g in programs] == [["time", "carry.step.0"], ["y", "table"]]
    _compare(graph, programs)


def test_one_rate_stays_and_so_do_programs_that_are_split() -> None:
    text = Graph("text", {"y": build("silu", source("p", (4,), "prompt"))})
    programs = _split(text)
    assert programs.graphs == (text,)
    step, latent = source("s", (1, 4), "step"), source("x", (1, 4))
    twice = build("reshape", build("silu", step), shape=(4,))
    programs = _split(Graph("n@8x8", {"y": build("add", latent, twice)}))
    assert equal(SplitRates().apply(programs), programs)


def test_program_names() -> None:
    assert program_name("unet@512x512x2", "step") == "unet.step@512x512x2"
    assert network_name("unet.step@512x512x2") == "unet@512x512x2" == network_name("unet@512x512x2")
    assert network_name("text") == "text"


def _small_model() -> Module:
    types = {name: TensorType(shape) for name, shape in expected_tensors(SMALL).items()}
    return lower_model(SMALL, types, [(16, 16)], batches=(2,))


def test_small_model_is_cut_where_the_binding_times_part() -> None:
    programs = {graph.name: graph for graph in SplitRates().apply(_small_model())}
    assert list(programs)[:4] == ["text", "unet.prompt@16x16x2", "unet.step@16x16x2", "unet@16x16x2"]
    names = expected_tensors(SMALL)
    blocks = sum(name.endswith("attn2.to_k.weight") for name in names)
    assert len(programs["unet.prompt@16x16x2"].outputs) == 2 * blocks  # keys and values
    resnets = sum(name.endswith("emb_layers.1.weight") for name in names)
    assert len(programs["unet.step@16x16x2"].outputs) == resnets
    for name, rate in (("unet.prompt@16x16x2", "prompt"), ("unet.step@16x16x2", "step")):
        assert set(node_rates(programs[name].outputs.values()).values()) == {"model", rate}
    rates = node_rates(programs["unet@16x16x2"].outputs.values())
    slow = {node.op for node, rate in rates.items() if rate in ("prompt", "step")}
    assert slow == {"input", "reshape"}


def test_small_unet_computes_the_same_in_parts() -> None:
    (unet,) = (graph for graph in _small_model() if graph.name.startswith("unet@"))
    _compare(unet, _split(unet))
