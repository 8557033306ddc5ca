"""What every training script needs: arguments, a resumable state, the learning rate, a log line."""

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

SAVE_SECONDS = 90.0
LOG_SECONDS = 15.0


def prepare(threads: int, seed: int) -> None:
    """Fixes the seed and how torch uses the processor."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, then half a cosine down to a fiftieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


class Journal:
    """Counts wall and processor seconds over all runs, logs, and saves what a resumed run needs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state: dict[str, Any] = {"step": 0, "wall": 0.0, "cpu": 0.0}
        if path.exists():
            self.state = torch.load(path, weights_only=True)
        self._begin = (time.perf_counter(), time.process_time())
        self._before = (self.state["wall"], self.state["cpu"])
        self._logged = self._saved = time.perf_counter()
        self._sums: dict[str, float] = {}
        self._count = 0

    @property
    def step(self) -> int:
        return int(self.state["step"])

    def seconds(self) -> tuple[float, float]:
        """Wall and processor seconds so far, earlier runs included."""
        wall, cpu = self._begin
        return (
            self._before[0] + time.perf_counter() - wall,
            self._before[1] + time.process_time() - cpu,
        )

    def finished(self, step: int, steps: int, values: Mapping[str, float]) -> bool:
        """Notes one step; whether it is time to save."""
        self.state["step"] = step + 1
        self._count += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        now = time.perf_counter()
        last = step + 1 == steps
        if now - self._logged > LOG_SECONDS or last:
            means = " ".join(f"{name} {total / self._count:.5f}" for name, total in self._sums.items())
            wall, cpu = self.seconds()
            print(f"step {step + 1}/{steps} {means} wall {wall:.0f} s cpu {cpu:.0f} s", flush=True)
            self._logged, self._sums, self._count = now, {}, 0
        return now - self._saved > SAVE_SECONDS or last

    def save(self, **parts: Any) -> None:
        """Writes the state beside the old one and puts it in its place."""
        self.state["wall"], self.state["cpu"] = self.seconds()
        self.state.update(parts)
        temporary = self.path.with_suffix(".tmp")
        torch.save(self.state, temporary)
        os.replace(temporary, self.path)
        self._saved = time.perf_counter()
