"""Results: one record per case and peer, as a table and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sdcomp.errors import UsageError


@dataclass(frozen=True)
class Record:
    """Median times in milliseconds, peak resident memory of each process in MiB.

    `ratio` is ours over the peer's: less than one is faster. `peak_fraction` is our rate of multiplies over
    that of the matmul micro-kernel on as many threads. Null: not applicable.
    """

    subject: str
    case: str
    threads: int
    ours_ms: float
    ours_peak_mb: float
    peer: str | None = None
    peer_ms: float | None = None
    peer_peak_mb: float | None = None
    ratio: float | None = None
    peak_fraction: float | None = None


_COLUMNS = (
    *("subject", "case", "threads", "peer", "ours ms", "peer ms", "ratio", "ours MiB", "peer MiB"),
    "fraction of peak",
)


def table(records: Sequence[Record]) -> str:
    """The records in aligned columns, for people."""
    rows = [_COLUMNS, *map(_cells, records)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def write_json(records: Sequence[Record], path: Path) -> None:
    """A list of objects with the fields of `Record`. Raises UsageError if it cannot be written."""
    try:
        path.write_text(json.dumps([asdict(record) for record in records], indent=2) + "\n")
    except OSError as error:
        raise UsageError(f"--json {path}: cannot be written: {error.strerror or error}") from None


def _cells(record: Record) -> tuple[str, ...]:
    return (
        record.subject,
        record.case,
        str(record.threads),
        record.peer or "-",
        _number(record.ours_ms, 2),
        _number(record.peer_ms, 2),
        _number(record.ratio, 3),
        _number(record.ours_peak_mb, 0),
        _number(record.peer_peak_mb, 0),
        _number(record.peak_fraction, 3),
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
