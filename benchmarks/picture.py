"""`python -m benchmarks.picture PEER FOLDER PICTURE OUTPUT`: a whole picture by a peer, as `image` times it.

PICTURE is a `Picture` as JSON, FOLDER has the converted networks.

The sampler, the tokenizer and the image file are ours, in numpy, so that no peer is charged for importing
PyTorch; its networks are its own. Each is loaded when it is first needed, and given up when it is done.
"""

import sys
from pathlib import Path

import numpy as np

from benchmarks.peers.base import Function, Peer
from benchmarks.peers.registry import PEERS
from benchmarks.subjects.image import Picture, network_cases
from sdcomp.runtime.context import Context
from sdcomp.runtime.library import Library
from sdcomp.runtime.model import Floats
from sdcomp.runtime.pipeline import Pipeline

Size = tuple[int, int]


class PeerPipeline(Pipeline):
    """A pipeline whose networks a peer computes; the artifact gives the tokenizer and the manifest."""

    def __init__(self, peer: Peer, picture: Picture, folder: Path) -> None:
        super().__init__(Library.open(picture.artifact, 1, verify=False))
        self._peer, self._folder, self._threads = peer, folder, picture.threads
        self._cases = network_cases(picture)
        self._loaded: dict[str, Function] = {}
        self._text: Floats = np.empty(0, np.float32)
        self._timestep = np.zeros(1, np.float32)

    def hidden_states(self, context: Context, prompt: str) -> Floats:
        return self._call("text", self.tokenize(prompt).ids[None].astype(np.int32))

    def set_prompt(self, context: Context, size: Size, text: Floats) -> None:
        self._text = text

    def set_timestep(self, context: Context, size: Size, timestep: float, rows: int) -> None:
        self._timestep = np.array([timestep], np.float32)

    def noise(self, context: Context, size: Size, latents: Floats, rows: int) -> Floats:
        return self._call("unet", latents, self._timestep, self._text)

    def image(self, context: Context, size: Size, latents: Floats) -> Floats:
        return self._call("vae_decoder", latents / np.float32(self.manifest["scaling_factor"]))

    def release(self, network: str) -> None:
        self._loaded.pop(network, None)

    def _call(self, network: str, *inputs: Floats) -> Floats:
        if network not in self._loaded:
            case, folder = self._cases[network], self._folder / network
            self._loaded[network] = self._peer.function(case, folder, self._threads)
        (output,) = self._loaded[network](inputs)
        return output


def main() -> None:
    """Makes the picture that the command line describes."""
    peer, folder, described, output = sys.argv[1:]
    picture = Picture.parse(described)
    pipeline = PeerPipeline(PEERS[peer], picture, Path(folder))
    (image,) = pipeline.generate(picture.options()).images
    image.save(output)


if __name__ == "__main__":
    main()
