"""Every peer by name."""

from collections.abc import Mapping
from typing import TypeVar

from benchmarks.peers.base import Peer, PicturePeer, Runtime
from benchmarks.peers.onnxruntime import OnnxRuntime
from benchmarks.peers.openvino import OpenVino
from benchmarks.peers.pytorch import PyTorch
from benchmarks.peers.stable_diffusion_cpp import FlashStableDiffusionCpp, StableDiffusionCpp
from sdcomp.errors import UsageError

PEERS: dict[str, Peer] = {peer.name: peer for peer in (PyTorch(), OpenVino(), OnnxRuntime())}

PICTURE_PEERS: dict[str, PicturePeer] = {
    peer.name: peer for peer in (StableDiffusionCpp(), FlashStableDiffusionCpp())
}

_Kind = TypeVar("_Kind", bound=Runtime)


def chosen_peers(names: str) -> list[Peer]:
    """The peers of a comma-separated list, which may be empty. Raises UsageError for an unknown one."""
    return _chosen(names, PEERS)


def chosen_picture_peers(names: str) -> list[Peer | PicturePeer]:
    """The same for whole pictures, which peers make that evaluate no single networks too."""
    return _chosen(names, {**PEERS, **PICTURE_PEERS})


def _chosen(names: str, known: Mapping[str, _Kind]) -> list[_Kind]:
    wanted = [name for name in names.split(",") if name]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise UsageError(f"--peers {names}: {unknown[0]} is unknown; known are {', '.join(known)}")
    return [known[name] for name in wanted]
