"""Parquet and Arrow files: how large their tables become is told before `datasets` writes them to a disk.

Both are compressed, and a dictionary repeats one long value for a few bits: a file of kilobytes can be a table of
terabytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo.bounded.regular import open_regular
from zoo.data.limits import Limit, unpacked_limit
from zoo.errors import DataError, one_line

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}  # bytes of a value
_DECODED = 64 * 2**20  # bytes that are decoded at once
_SMALL = 256 * 2**20  # bytes of a file whose texts are all decoded once, to see how large they are


def check(path: Path, kind: str) -> None:
    """Check how large a Parquet or Arrow file's table is; a file of another kind is not looked at.

    Raises:
        DataError: it is larger than `zoo.data.limits` allows, or damaged.
    """
    found = {"parquet": _parquet, "arrow": _arrow}.get(kind)
    if found is None:
        return
    try:
        size = path.stat().st_size
        open_regular(path).close()
        limit = unpacked_limit(size)
        for total in found(path, size, limit):
            said = limit.exceeded(total)
            if said:
                raise DataError(f"{path}: would be {said}")
    except DataError:
        raise
    except Exception as error:  # of pyarrow, as the file has it
        raise DataError(f"{path}: cannot be read as {kind} ({one_line(error, 200)}): look at the file") from error


def _parquet(path: Path, size: int, limit: Limit) -> Iterator[int]:
    """Yield the bytes of a Parquet file's table as far as they are known."""
    from pyarrow import parquet

    with parquet.ParquetFile(path, memory_map=True) as file:
        held = file.metadata
        total, doubtful = 0, 0
        for group in range(held.num_row_groups):
            for column in range(held.num_columns):
                chunk = held.row_group(group).column(column)
                declared = max(0, chunk.total_uncompressed_size)
                width = _WIDTHS.get(chunk.physical_type)
                total += declared if width is None else max(declared, width * chunk.num_values)
                if width is None and any("DICTIONARY" in name for name in chunk.encodings):
                    doubtful += declared * chunk.num_values  # each value may be as long as the whole dictionary
        yield total
        if total + doubtful > limit.value() and size <= _SMALL:
            yield from _decoded(file)


def _decoded(file: Any) -> Iterator[int]:
    """Yield how many bytes the texts of a Parquet file are, growing while they are decoded, a few at once."""
    held, total = file.metadata, 0
    for group in range(held.num_row_groups):
        chunks = [held.row_group(group).column(i) for i in range(held.num_columns)]
        texts = [chunk for chunk in chunks if chunk.physical_type not in _WIDTHS]
        names = sorted({chunk.path_in_schema.split(".")[0] for chunk in texts})
        longest = max((chunk.total_uncompressed_size for chunk in texts), default=1)
        rows = min(1000, max(1, _DECODED // max(1, longest)))
        for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=names):
            total += sum(map(_spread, batch.columns))
            yield total


def _spread(column: Any) -> int:
    """Return the bytes of an Arrow array, of a dictionary those of the values that it stands for."""
    from pyarrow import compute, types

    kind = column.type
    if types.is_dictionary(kind) and (types.is_string(kind.value_type) or types.is_binary(kind.value_type)):
        return int(compute.sum(compute.binary_length(column.dictionary).take(column.indices)).as_py() or 0)
    return int(column.nbytes)


def _arrow(path: Path, size: int, limit: Limit) -> Iterator[int]:
    """Yield the bytes of an Arrow file's batches, growing, by what each says of itself; nothing is unpacked."""
    from pyarrow import ipc, memory_map

    with memory_map(str(path)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(8 if is_file else 0)
        total, batches = 0, 0
        while True:
            try:
                message = ipc.read_message(source)
            except EOFError:
                break
            batches += message.type == "record batch"
            if message.type in ("record batch", "dictionary"):
                total += _unpacked_size(message)
                yield total
        if is_file:  # whose footer may say anything
            source.seek(0)
            if ipc.open_file(source).num_record_batches != batches:
                raise ValueError("its footer lists other batches than it has")


def _unpacked_size(message: Any) -> int:
    """Return how many bytes the body of an Arrow message becomes, by the flatbuffer before it.

    The fields are those of Message.fbs in Arrow's format: a compressed buffer begins with its size.
    """
    held, body = memoryview(message.metadata), memoryview(message.body)
    table = _field(held, _offset(held, 0), 2)
    if message.type == "dictionary":
        table = _field(held, table, 1)
    buffers, compression = _place(held, table, 2), _place(held, table, 3)
    if not buffers or not compression:
        return len(body)
    vector = buffers + _offset(held, buffers)
    total = 0
    for i in range(struct.unpack_from("<I", held, vector)[0]):
        start, length = struct.unpack_from("<qq", held, vector + 4 + 16 * i)
        known = struct.unpack_from("<q", body, start)[0] if length else 0
        total += length if known == -1 else max(0, known)
    return total


def _offset(held: memoryview, place: int) -> int:
    return int(struct.unpack_from("<I", held, place)[0])


def _place(held: memoryview, table: int, field: int) -> int:
    """Return where a table of a flatbuffer has its field number `field`; 0 where it has none."""
    entries = table - struct.unpack_from("<i", held, table)[0]
    if 4 + 2 * field >= struct.unpack_from("<H", held, entries)[0]:
        return 0
    found = struct.unpack_from("<H", held, entries + 4 + 2 * field)[0]
    return table + found if found else 0


def _field(held: memoryview, table: int, field: int) -> int:
    """Return the table that a table's field is."""
    place = _place(held, table, field)
    return place + _offset(held, place)
