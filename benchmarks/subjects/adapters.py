"""What adapters cost at run time: a UNet without adapters, with one folded in and with the same one live."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.measure import Settings, in_turns, relative_difference
from benchmarks.records import Record
from benchmarks.subjects.network import Adapters, build_artifact
from benchmarks.subjects.unet import UNetCase
from benchmarks.workers import Worker

BASE, FOLDED, LIVE = "no adapter", "folded", "live"


def measure_adapters(
    checkpoint: Path, adapters: Adapters, size: tuple[int, int], settings: Settings, folder: Path
) -> list[Record]:
    """One record each of the folded and the live form, against the model without adapters.

    The unit is one evaluation with guidance; the prompt's program runs before. All three take turns.
    """
    cases = {
        name: UNetCase(checkpoint, folder / f"{name}.so", size, 2, hoisted=True)
        for name in (BASE, FOLDED, LIVE)
    }
    for name, case in cases.items():
        given = () if name == BASE else adapters
        build_artifact(checkpoint, case.artifact, size, settings.threads, given, live=name == LIVE)
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(
                Worker(name, settings.threads, partial(case.load_ours, folder, settings.threads))
            )
            for name, case in cases.items()
        }
        return _measured(cases[BASE].name, workers, settings)


def _measured(case: str, workers: dict[str, Worker], settings: Settings) -> list[Record]:
    outputs = {name: worker.outputs() for name, worker in workers.items()}
    for name, other in ((FOLDED, BASE), (LIVE, FOLDED)):
        difference = relative_difference(outputs[name][0], outputs[other][0])
        settings.report(f"{case}: relative difference of {name} to {other} {difference:.1e}")
    for name, worker in workers.items():
        settings.report(f"{case}: {name}: {(worker.multiplies or 0) / 1e9:.2f} G multiply-accumulates")
    turns = dict(zip(workers, in_turns(list(workers.values()), settings.runs), strict=True))
    seconds = {name: median(times) for name, times in turns.items()}
    return [
        Record(
            subject="adapters",
            case=f"{case}, {name}",
            threads=settings.threads,
            ours_ms=1e3 * seconds[name],
            ours_peak_mb=workers[name].peak_mb(),
            peer=BASE,
            peer_ms=1e3 * seconds[BASE],
            peer_peak_mb=workers[BASE].peak_mb(),
            ratio=seconds[name] / seconds[BASE],
        )
        for name in (FOLDED, LIVE)
    ]
