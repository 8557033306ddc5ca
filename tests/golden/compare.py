"""Golden files: what a test found last time, reviewed as text, rewritten by `pytest --update-golden`."""

from dataclasses import dataclass
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Golden:
    """The recorded texts; `update` records what is found instead of comparing."""

    update: bool

    def text(self, name: str, found: str) -> str:
        """The recorded text of `name`, which is `found` itself while updating."""
        path = FOLDER / f"{name}.txt"
        if self.update:
            path.write_text(found)
        assert path.exists(), f"{path} is missing; run pytest --update-golden and review it"
        return path.read_text()

    def check(self, name: str, found: str) -> None:
        """Compares line by line; pytest shows the difference."""
        assert found.splitlines() == self.text(name, found).splitlines(), f"{name}.txt: see --update-golden"

    def numbers(self, name: str, found: dict[str, float]) -> dict[str, float]:
        """The recorded numbers of `name`, one `key value` per line."""
        lines = self.text(name, "".join(f"{key} {value:.6g}\n" for key, value in found.items())).splitlines()
        return {key: float(value) for key, value in (line.split() for line in lines)}


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """The recorded texts."""
    return Golden(request.config.getoption("--update-golden"))


def add_golden_option(parser: pytest.Parser) -> None:
    """`--update-golden` of the command line."""
    parser.addoption("--update-golden", action="store_true", help="record what tests find in tests/golden")
