"""Artifacts of the example model, compiled once: equal kernels, other weights."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sdcomp import load
from sdcomp.compiler import AdapterFile, BuildOptions, build
from sdcomp.demo import CHECKPOINT, CONCEPT, SIZE, STYLE
from sdcomp.runtime.pipeline import Pipeline

OTHER_SIZE = (96, 80)


def artifact(folder: Path, *adapters: AdapterFile) -> Pipeline:
    path = folder / "model.so"
    build(CHECKPOINT, path, BuildOptions(adapters, (SIZE, OTHER_SIZE)))
    return load(path)


@pytest.fixture(scope="package")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with artifact(tmp_path_factory.mktemp("plain")) as model:
        yield model


@pytest.fixture(scope="package")
def style(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with artifact(tmp_path_factory.mktemp("style"), AdapterFile(STYLE)) as model:
        yield model


@pytest.fixture(scope="package")
def style_at_zero(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with artifact(tmp_path_factory.mktemp("zero"), AdapterFile(STYLE, 0.0)) as model:
        yield model


@pytest.fixture(scope="package")
def concept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with artifact(tmp_path_factory.mktemp("concept"), AdapterFile(CONCEPT)) as model:
        yield model
