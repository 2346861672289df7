"""What a task has written as its outputs: JSON that later instances of its run read as `.tasks.NAME.outputs.KEY`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

import msgspec

OUTPUTS_BYTES_MAX: Final = 64 * 1024  # of a file, and of all outputs of an attempt
DEPTH_MAX: Final = 32  # of lists and maps in each other; templates print no deeper than `gofmt.DEPTH_MAX`
RETURN_KEY: Final = "return_value"  # Airflow's name for what a task returns
SHORT_SECRET: Final = 4
"""Characters. A shorter secret is found only where it is a whole value: others hold it by chance."""

_encoder: Final = msgspec.json.Encoder(order="deterministic")


class OutputsRefused(ValueError):
    """They cannot be taken; the message says why, and quotes nothing of them."""


def parse_outputs(data: bytes) -> dict[str, object]:
    """The outputs in an `outputs.json`: {key: value}. Raises OutputsRefused."""
    value = _parse(data)
    if not isinstance(value, dict):
        raise OutputsRefused("must hold a JSON object, whose keys are the outputs' names")
    return value


def parse_return(data: bytes) -> dict[str, object]:
    """The outputs in Airflow's `return.json`, which may hold any value. Raises OutputsRefused.

    Those of an object are its own keys; any other value is the output `return_value`. An empty file holds none.
    """
    if not data.strip():
        return {}
    value = _parse(data)
    return value if isinstance(value, dict) else {RETURN_KEY: value}


def _parse(data: bytes) -> object:
    if len(data) > OUTPUTS_BYTES_MAX:
        raise OutputsRefused(f"is larger than the {OUTPUTS_BYTES_MAX} bytes that outputs may have")
    try:
        value: object = msgspec.json.decode(data)
    except RecursionError:
        raise OutputsRefused(_too_deep()) from None
    except UnicodeDecodeError:
        raise OutputsRefused("is not UTF-8, as JSON has to be") from None
    except msgspec.DecodeError as error:
        raise OutputsRefused(f"cannot be read as JSON: {error}") from None
    for one, depth in _walk(value):
        if depth > DEPTH_MAX and isinstance(one, dict | list):
            raise OutputsRefused(_too_deep())
        if isinstance(one, int) and not _is_float64(one):
            raise OutputsRefused("has a number that is too large")
    return value


def _too_deep() -> str:
    return f"nests lists and maps deeper than {DEPTH_MAX} levels"


def _is_float64(number: int) -> bool:
    try:
        float(number)
    except OverflowError:
        return False
    return True


def _walk(value: object) -> Iterator[tuple[object, int]]:
    """All that a value consists of, itself and the names in its maps included, each with how deep it lies."""
    todo: list[tuple[object, int]] = [(value, 0)]
    while todo:
        one, depth = todo.pop()
        yield one, depth
        if isinstance(one, dict):
            todo += ((inner, depth + 1) for pair in one.items() for inner in pair)
        elif isinstance(one, list):
            todo += ((inner, depth + 1) for inner in one)


def encode_outputs(values: Mapping[str, object]) -> bytes:
    """The blob of outputs: the same outputs give the same bytes. Raises OutputsRefused where they are too large."""
    data = _encoder.encode(values)
    if len(data) > OUTPUTS_BYTES_MAX:
        raise OutputsRefused(f"has {len(data)} bytes of outputs; at most {OUTPUTS_BYTES_MAX} are kept")
    return data


def decode_outputs(data: bytes) -> dict[str, object]:
    """The outputs in a blob. Raises msgspec.ValidationError for what `encode_outputs` did not make."""
    return msgspec.json.decode(data, type=dict[str, object])


def telling(values: Mapping[str, object], secrets: Collection[str]) -> frozenset[str]:
    """The names of outputs in which one of these secrets can be read, in their name or their value."""
    sought = frozenset(secret.strip() for secret in secrets) - {""}
    return frozenset(name for name, value in values.items() if _tells([name, value], sought))


def _tells(value: object, secrets: Collection[str]) -> bool:
    for one, _depth in _walk(value):
        if isinstance(one, bool | dict | list) or one is None:
            continue
        text = one if isinstance(one, str) else _encoder.encode(one).decode()
        if any(secret in text if len(secret) >= SHORT_SECRET else secret == text.strip() for secret in secrets):
            return True
    return False
