"""The table as a snapshot holds it: a stream of records, which are written and read a few rows at a time.

    record   length u32 | kind u8 | body          little-endian; length: of the body, in bytes
    kind n   of the field of TableImage at place n: its value, or some of its rows, {key: row}; msgpack
    kind 255 the end. Without it the stream was cut

Rows come in the order in which the table has them, so the same table gives the same bytes. A field that is missing
keeps its default, and one that has its default is left out: an older program reads the table as long as nothing in it
is of a later one. Records have about PIECE_BYTES: whoever encodes or decodes one holds the interpreter for less than a
millisecond, and the loop gets its turn.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final, get_args, get_origin

import msgspec

from agent.runtable.model import TableImage

PIECE_BYTES: Final = 64 * 1024
_RECORD: Final = struct.Struct("<IB")
_END: Final = 255
_ENCODED: Final = {"runs": "run/", "projects": "project/"}  # field -> prefix of its keys in `Table.encoded`
_encoder: Final = msgspec.msgpack.Encoder()


class _Field:
    """A field of TableImage. shared: its rows are replaced and never changed, so an image may have the very same."""

    def __init__(self, name: str, shape: Any) -> None:
        row = get_args(shape)[1] if get_origin(shape) is dict else None
        self.name, self.is_map = name, row is not None
        self.nested = get_origin(row) is dict  # {project: {key: row}}
        row = get_args(row)[1] if self.nested else row
        self.shared = isinstance(row, type) and (issubclass(row, str | int) or _is_frozen(row))
        assert self.shared or not self.nested, f"{name}: no image can be made of it"
        self.decoder = msgspec.msgpack.Decoder(shape)

    def image(self, value: Any, encoded: Mapping[str, bytes]) -> Any:
        """The value as it is now."""
        if not self.is_map:
            return msgspec.Raw(_encoder.encode(value))
        if self.nested:
            return {key: rows.copy() for key, rows in value.items()}
        if self.shared:
            return value.copy()
        if self.name in _ENCODED:
            prefix = _ENCODED[self.name]
            return {key: msgspec.Raw(encoded[prefix + key]) for key in value}
        return {key: msgspec.Raw(_encoder.encode(row)) for key, row in value.items()}

    def bodies(self, value: Any) -> Iterator[bytes]:
        """The bodies of its records. value: of `image`."""
        if not self.is_map:
            yield _encoder.encode(value)
        elif not self.nested:
            yield from map(_encoder.encode, _pieces(value))
        else:
            for key, rows in value.items():
                for piece in _pieces(rows):
                    yield _encoder.encode({key: piece})

    def take(self, rows: TableImage, body: bytes) -> None:
        """Put what a record says into `rows`. Raises msgspec.DecodeError."""
        value = self.decoder.decode(body)
        if not self.is_map:
            setattr(rows, self.name, value)
        elif not self.nested:
            getattr(rows, self.name).update(value)
        else:
            for key, of_key in value.items():
                getattr(rows, self.name).setdefault(key, {}).update(of_key)


def _is_frozen(row: type) -> bool:
    return issubclass(row, msgspec.Struct) and row.__struct_config__.frozen


_FIELDS: Final = [_Field(field.name, field.type) for field in msgspec.structs.fields(TableImage)]
_EMPTY: Final = TableImage()


class Image:
    """The table as of one index. Made in a moment; iterated, once, in another thread while the table goes on."""

    def __init__(self, rows: TableImage, encoded: Mapping[str, bytes]) -> None:
        """rows: the table's. encoded: the msgpack of its runs and projects, which are changed in place (`Table`)."""
        values = [(field, getattr(rows, field.name)) for field in _FIELDS]
        self._values = [
            field.image(value, encoded) if value != getattr(_EMPTY, field.name) else None for field, value in values
        ]

    def __iter__(self) -> Iterator[bytes]:
        """The records."""
        for kind, field in enumerate(_FIELDS):
            value, self._values[kind] = self._values[kind], None
            for body in field.bodies(value) if value is not None else ():
                yield _RECORD.pack(len(body), kind) + body
        yield _RECORD.pack(0, _END)


def _pieces(rows: Mapping[str, Any]) -> Iterator[dict[str, msgspec.Raw]]:
    """All rows in pieces, at least one: a project without jobs is there as well."""
    piece: dict[str, msgspec.Raw] = {}
    size = 0
    for key, row in rows.items():
        data = _encoder.encode(row)
        if piece and size + len(data) > PIECE_BYTES:
            yield piece
            piece, size = {}, 0
        piece[key] = msgspec.Raw(data)
        size += len(key) + len(data)
    yield piece


class ImageReader:
    """Puts rows together from the pieces of a stream, cut anywhere. For one thread at a time."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self._rows = TableImage()
        self._buffer = bytearray()
        self._ended = False

    def feed(self, data: bytes) -> None:
        """The next bytes of the stream. Raises msgspec.DecodeError for what no `Image` has made."""
        self._buffer += data
        at = 0
        while at + _RECORD.size <= len(self._buffer):
            length, kind = _RECORD.unpack_from(self._buffer, at)
            end = at + _RECORD.size + length
            if end > len(self._buffer):
                break
            self._take(kind, bytes(self._buffer[at + _RECORD.size : end]))
            at = end
        del self._buffer[:at]

    def _take(self, kind: int, body: bytes) -> None:
        if self._ended:
            raise msgspec.DecodeError("something stands behind the end of the table")
        if kind == _END:
            self._ended = True
        elif kind < len(_FIELDS):
            _FIELDS[kind].take(self._rows, body)
        else:
            raise msgspec.DecodeError(f"a record of kind {kind}, which this version does not know")

    def finish(self) -> TableImage:
        """All rows. Raises msgspec.DecodeError where the stream has no end."""
        if not self._ended or self._buffer:
            raise msgspec.DecodeError("the stream of the table has no end")
        return self._rows
