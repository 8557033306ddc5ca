"""Second stage: the text encoder learns to tell what a caption names, so that the UNet finds it.

Every state behind the caption, the paddings included, must give kinds, colours, size and place to a linear
layer. That takes a minute, where the UNet's loss alone would take much of its training to get there.

    python -m examples.tinyshapes.train_text WORK_FOLDER
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from examples.tinyshapes.captions import PLACES, RADII, random_scene
from examples.tinyshapes.dataset import tokenize
from examples.tinyshapes.networks import TEXT_WIDTH, make_text_encoder
from examples.tinyshapes.progress import Journal, learning_rate, prepare
from examples.tinyshapes.shapes import BASE_SHAPES, COLOURS, Scene
from sdcomp.frontend.tokenizer import END_OF_TEXT

BATCH = 64
PEAK_RATE = 2e-3

_COLOURS, _KINDS = ("", *COLOURS), ("", *BASE_SHAPES)
FACTS = (_COLOURS, _KINDS, _COLOURS, _KINDS, _COLOURS, tuple(RADII), ("", *PLACES))
"""The possible answers: background, kind and colour of both shapes, size, place."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    prepare(arguments.threads, seed=4)
    journal = Journal(arguments.folder / "text.pt")
    text, answers = make_text_encoder(), torch.nn.Linear(TEXT_WIDTH, sum(map(len, FACTS)))
    optimizer = torch.optim.AdamW([*text.parameters(), *answers.parameters()], weight_decay=0.0)
    if journal.step:
        text.load_state_dict(journal.state["text"])
        answers.load_state_dict(journal.state["answers"])
        optimizer.load_state_dict(journal.state["optimizer"])
    for step in range(journal.step, arguments.steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step, arguments.steps, PEAK_RATE)
        loss = _loss(text, answers, np.random.default_rng((4, step)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if journal.finished(step, arguments.steps, {"loss": loss.item()}):
            journal.save(
                text=text.state_dict(), answers=answers.state_dict(), optimizer=optimizer.state_dict()
            )


def _loss(text: torch.nn.Module, answers: torch.nn.Module, generator: np.random.Generator) -> torch.Tensor:
    """Cross entropy of every fact, averaged over the states behind the captions."""
    drawn = [random_scene(generator) for _ in range(BATCH)]
    tokens = tokenize([caption for _, caption in drawn])
    facts = torch.tensor([_facts(scene, caption) for scene, caption in drawn])
    rows, positions = torch.nonzero(tokens == END_OF_TEXT, as_tuple=True)
    logits = answers(text(tokens).last_hidden_state[rows, positions])
    parts = logits.split([len(choices) for choices in FACTS], dim=1)
    losses = [torch.nn.functional.cross_entropy(part, facts[rows, i]) for i, part in enumerate(parts)]
    return torch.stack(losses).mean()


def _facts(scene: Scene, caption: str) -> list[int]:
    first, *others = scene.shapes
    second = others[0] if others else None
    words = caption.split()
    size = next((word for word in RADII if word in words), "")
    place = next((word for word in PLACES if word in words), "")
    values = (
        scene.background,
        first.kind,
        first.colour,
        second.kind if second else "",
        second.colour if second else "",
        size,
        place,
    )
    return [choices.index(value) for choices, value in zip(FACTS, values, strict=True)]


if __name__ == "__main__":
    main()
