"""Every peer by name."""

from benchmarks.peers.base import Peer
from benchmarks.peers.onnxruntime import OnnxRuntime
from benchmarks.peers.openvino import OpenVino
from benchmarks.peers.pytorch import PyTorch
from sdcomp.errors import UsageError

PEERS: dict[str, Peer] = {peer.name: peer for peer in (PyTorch(), OpenVino(), OnnxRuntime())}


def chosen_peers(names: str) -> list[Peer]:
    """The peers of a comma-separated list, which may be empty. Raises UsageError for an unknown one."""
    wanted = [name for name in names.split(",") if name]
    unknown = [name for name in wanted if name not in PEERS]
    if unknown:
        raise UsageError(f"--peers {names}: {unknown[0]} is unknown; known are {', '.join(PEERS)}")
    return [PEERS[name] for name in wanted]
