"""Applying a small constant matrix to vectors, with the work that rows or columns of opposite points share
done once.
"""

from collections.abc import Sequence

from sdcomp.codegen.builder import Emitter, Value

Floats = list[list[float]]


def apply(e: Emitter, matrix: Floats, values: list[Value], rows: Sequence[int] | None = None) -> list[Value]:
    """matrix @ values, values being vectors; or some rows of it, with the very same operations."""
    wanted = range(len(matrix)) if rows is None else rows
    column_pairs = _pairs([list(column) for column in zip(*matrix, strict=True)])
    if column_pairs:
        return _apply_columns(e, [matrix[row] for row in wanted], values, column_pairs)
    return _apply_rows(e, matrix, values, wanted)


def apply_2d(
    e: Emitter, matrix: Floats, tile: list[list[Value]], rows: Sequence[int] | None = None
) -> list[list[Value]]:
    """matrix @ tile @ matrix^T, or some rows of it."""
    columns = [apply(e, matrix, list(column), rows) for column in zip(*tile, strict=True)]
    return [apply(e, matrix, list(row)) for row in zip(*columns, strict=True)]


def row_pairs(matrix: Floats) -> tuple[tuple[int, ...], ...]:
    """The rows of a matrix in twos, such that rows that share work stay together."""
    pairs = _pairs(matrix)
    rest = [row for row in range(len(matrix)) if not any(row in pair for pair in pairs)]
    return (*(tuple(rest[at : at + 2]) for at in range(0, len(rest), 2)), *pairs)


def _pairs(rows: Floats) -> list[tuple[int, int]]:
    """Rows that differ in signs only, in at least one but not all of their non-zero places."""
    pairs: list[tuple[int, int]] = []
    for i in range(len(rows) - 1):
        j = i + 1
        same = all(abs(a) == abs(b) for a, b in zip(rows[i], rows[j], strict=True))
        if same and rows[i] != rows[j] and not any(i in pair for pair in pairs):
            pairs.append((i, j))
    return pairs


def _apply_rows(e: Emitter, matrix: Floats, values: list[Value], wanted: Sequence[int]) -> list[Value]:
    """Rows of a pair are s + d and s - d: s from the places where they agree, d from the others."""
    result: dict[int, Value] = {}
    for i, j in _pairs(matrix):
        if i not in wanted and j not in wanted:
            continue
        agree = [a if a == b else 0.0 for a, b in zip(matrix[i], matrix[j], strict=True)]
        differ = [a if a != b else 0.0 for a, b in zip(matrix[i], matrix[j], strict=True)]
        s, d = _combine(e, agree, values), _combine(e, differ, values)
        result[i], result[j] = e.b.fadd(s, d), e.b.fsub(s, d)
    return [result.get(row) or _combine(e, matrix[row], values) for row in wanted]


def _apply_columns(
    e: Emitter, matrix: Floats, values: list[Value], pairs: list[tuple[int, int]]
) -> list[Value]:
    """A pair of columns meets the sum of its values where the signs agree, and the difference where not."""
    paired = {i for pair in pairs for i in pair}
    terms = [(values[i], [row[i] for row in matrix]) for i in range(len(values)) if i not in paired]
    for i, j in pairs:
        agree = [row[i] if row[i] == row[j] else 0.0 for row in matrix]
        differ = [row[i] if row[i] != row[j] else 0.0 for row in matrix]
        terms += [(e.b.fadd(values[i], values[j]), agree), (e.b.fsub(values[i], values[j]), differ)]
    operands = [value for value, _ in terms]
    return [_combine(e, [column[row] for _, column in terms], operands) for row in range(len(matrix))]


def _combine(e: Emitter, coefficients: list[float], values: list[Value]) -> Value:
    """Sum of coefficient times value; units first, as they cost an addition only."""
    terms = sorted(
        ((c, v) for c, v in zip(coefficients, values, strict=True) if c != 0.0),
        key=lambda t: abs(t[0]) != 1.0,
    )
    total: Value = None
    for coefficient, value in terms:
        if total is None:
            total = value if coefficient == 1.0 else e.b.fmul(value, e.splat(coefficient))
        elif coefficient == 1.0:
            total = e.b.fadd(total, value)
        elif coefficient == -1.0:
            total = e.b.fsub(total, value)
        else:
            total = e.fma(value, e.splat(coefficient), total)
    return e.zeros() if total is None else total
