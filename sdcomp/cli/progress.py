"""Progress on stderr: one bar per stage, with the time it takes."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn


class Stages:
    """A context manager; `report` is what long work calls.

    A stage begins with its first report and ends with the next one's. `seconds` are the times of the stages
    that have ended, in order. Not `visible` leaves stderr to other output.
    """

    def __init__(self, visible: bool = True) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[pace]}"),
        )
        self.seconds: dict[str, float] = {}
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not visible)
        self._stage = ""
        self._task = TaskID(0)
        self._begin = 0.0

    def report(self, stage: str, done: int, total: int, seconds: float | None = None) -> None:
        """`done` of `total` parts of the stage; `seconds` that the last part took are shown, if given.

        A stage that cannot tell how far it is reports 0 of 1.
        """
        if stage != self._stage:
            self._finish()
            self._stage, self._begin = stage, time.perf_counter()
            self._task = self._progress.add_task(stage, total=None, pace="")
        known = total if total > 1 or done else None
        pace = "" if seconds is None else f"{seconds:.2f} s/step"
        self._progress.update(self._task, completed=done, total=known, pace=pace)

    def _finish(self) -> None:
        if self._stage:
            self.seconds[self._stage] = time.perf_counter() - self._begin
            self._progress.update(self._task, completed=1, total=1)
            self._progress.stop_task(self._task)
        self._stage = ""

    def __enter__(self) -> "Stages":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._finish()
        self._progress.stop()
