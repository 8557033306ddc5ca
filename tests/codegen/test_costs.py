"""Costs of kernels: the shipped files, the user's, and files that are neither."""

import json
from pathlib import Path

import pytest

from sdcomp.codegen.costs import (
    ALGORITHMS,
    MEASURED,
    PARTS,
    SHIPPED,
    VERSION,
    Costs,
    cache_path,
    load_costs,
    shipped_costs,
    write_costs,
)
from sdcomp.codegen.targets import TARGETS
from sdcomp.errors import LoadError

TARGET = TARGETS["x86-64-v3"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sdcomp.codegen.costs.host_name", lambda: "A CPU/with (odd) name @ 1GHz")
    return cache_path(TARGET)


def _measured(value: float = 0.125) -> Costs:
    return Costs(TARGET, "here", MEASURED, {name: dict.fromkeys(PARTS, value) for name in ALGORITHMS})


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_every_target_has_shipped_costs(target: object) -> None:
    costs = shipped_costs(target)  # type: ignore[arg-type]
    assert costs.source == SHIPPED
    assert costs.target is target
    assert 0 < costs.nanoseconds["direct"]["multiply"] < 1


def test_the_users_file_goes_before_the_shipped_one(cache: Path, tmp_path: Path) -> None:
    assert load_costs(TARGET) == shipped_costs(TARGET)
    write_costs(_measured(), cache)
    assert load_costs(TARGET) == _measured()
    assert load_costs(TARGETS["x86-64-v4"]).source == SHIPPED
    assert cache == tmp_path / "sdcomp" / "costs-x86-64-v3-a-cpu-with-odd-name-1ghz.json"
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


def test_a_relative_cache_folder_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_path(TARGET).parent == tmp_path / ".cache" / "sdcomp"


def _content(**changes: object) -> str:
    times = {name: dict.fromkeys(PARTS, 0.5) for name in ALGORITHMS}
    return json.dumps({"version": VERSION, "target": TARGET.name, "cpu": "c", "nanoseconds": times} | changes)


def _times(value: object) -> str:
    return _content(nanoseconds={name: dict.fromkeys(PARTS, value) for name in ALGORITHMS})


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\x00", b"[" * 60000, b"{}", b"[]", b" " * (1 << 17) + _content().encode(),
        _content(version=VERSION + 1).encode(), _content(target="aarch64").encode(), _content(cpu=3).encode(),
        _content(nanoseconds=[]).encode(), _content(nanoseconds={"direct": {}}).encode(),
        _times("1").encode(), _times(True).encode(), _times(-1e-9).encode(), _times(1e300).encode(),
        _times(10**400).encode(), _times(float("nan")).encode(), _times(float("inf")).encode(),
        _times(None).encode(), _content(nanoseconds=dict.fromkeys(ALGORITHMS, 1.0)).encode(),
    ],
)  # fmt: skip
def test_what_is_no_file_of_costs_is_refused(content: bytes, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_bytes(content)
    message = r"is no file of costs: .*; delete it, or run `sdcomp tune` again"
    with pytest.raises(LoadError, match=message) as caught:
        load_costs(TARGET)
    assert str(cache) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LoadError, match="cannot be written"):
        write_costs(_measured(), tmp_path / "file" / "costs.json")
