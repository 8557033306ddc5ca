"""Where the numbers behind `weight` nodes come from."""

from collections.abc import Sequence
from typing import Protocol

from sdcomp.errors import LoadError
from sdcomp.frontend.adapters.reader import Adapter, adapter_id
from sdcomp.ir.graph import Node
from sdcomp.ir.types import Array
from sdcomp.passes.apply_adapters import CHECKPOINT


class TensorReader(Protocol):
    """Anything that reads tensors by name, such as `Checkpoint` and `SafetensorsFile`."""

    def read(self, name: str) -> Array: ...


class WeightSource:
    """The checkpoint, under its canonical names, and the adapters, in the order in which `match` got them.

    Nothing is kept: a tensor lives as long as the caller's reference to it.
    """

    def __init__(self, checkpoint: TensorReader, adapters: Sequence[Adapter] = ()) -> None:
        self._checkpoint = checkpoint
        self._adapters = {adapter_id(index): adapter for index, adapter in enumerate(adapters)}

    def read_weight(self, node: Node) -> Array:
        """The array of a `weight` node, of its shape and element type.

        Raises LoadError where the tensor has another shape than the node, AdapterError where a tensor of an
        adapter holds NaN or infinity, and KeyError for a file or tensor that is not there.
        """
        name, file = node.text("name"), node.text("file")
        reader = self._checkpoint if file == CHECKPOINT else self._adapters[file]
        values = reader.read(name)
        if values.shape != node.shape:
            found = f"expected shape {list(node.shape)}, found {list(values.shape)}"
            raise LoadError(f"weight {name} of {file}: {found}")
        return values.astype(node.dtype.numpy, copy=False)
