"""eliminate_dead: carried values without a reader go, and what only they needed goes with them."""

from sdcomp.ir.compare import equal
from sdcomp.ir.graph import Graph
from sdcomp.ir.ops import build
from sdcomp.passes.eliminate_dead import EliminateDead
from tests.passes.graphs import module, source


def test_unread_carry_goes_and_frees_another() -> None:
    prompt, step, latent = source("p", (4,), "prompt"), source("s", (4,), "step"), source("x", (4,))
    carried = source("carry.prompt.0", (4,), "prompt")
    kept = build("silu", step)
    before = module(
        Graph("n.prompt@8", {"carry.prompt.0": build("silu", prompt)}),
        Graph("n.step@8", {"carry.step.0": build("add", step, carried), "carry.step.1": kept}),
        Graph("n@8", {"y": build("add", latent, source("carry.step.1", (4,), "step"))}),
    )
    after = EliminateDead().apply(before)
    assert equal(after, module(Graph("n.step@8", {"carry.step.1": kept}), before.graphs[2]))


def test_a_reader_of_another_network_does_not_count() -> None:
    prompt, latent = source("p", (4,), "prompt"), source("x", (4,))
    carried = source("carry.prompt.0", (4,), "prompt")
    slow = Graph("n.prompt@8", {"carry.prompt.0": build("silu", prompt)})
    other = Graph("n@16", {"y": build("add", latent, carried)})
    assert EliminateDead().apply(module(slow, other)).graphs == (other,)
    reader = Graph("n@8", {"y": build("add", latent, carried)})
    assert EliminateDead().apply(module(slow, reader)).graphs == (slow, reader)


def test_ordinary_outputs_stay() -> None:
    same = module(a=source("x", (4,)), b=build("silu", source("y", (4,))))
    assert EliminateDead().apply(same) is same
