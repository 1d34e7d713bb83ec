"""Arrays from files of others: IDX and npz. Sizes are checked from the headers before anything is read."""

import gzip
import io
import math
import struct
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from wspace.errors import DataError

MAX_BYTES = 4 * 2**30  # of all arrays of a file, uncompressed
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PIECE = 2**24  # bytes


def read_idx(path: Path) -> Shaped[np.ndarray, "..."]:
    """Read one IDX file (the format of MNIST), gzipped when its name ends in .gz.

    Bytes 0-1 are zero, byte 2 is the type, byte 3 the number of dimensions, then one big-endian uint32 each, then the
    values in row-major order.

    Raises:
        DataError: missing, not IDX, larger than MAX_BYTES, truncated, or with bytes left over.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _parse_idx(path, file)
    except DataError:
        raise
    except Exception as error:  # damaged bytes make the decoders raise anything
        raise DataError(f"{path} cannot be read as IDX: {error}") from error


def read_npz(path: Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Read all arrays of an npz file; nothing in it is ever unpickled.

    Raises:
        DataError: missing, not an npz, an object array, larger than MAX_BYTES in all, or truncated.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            check_size(f"{path} with {len(members)} arrays", sum(member.file_size for member in members))
            for member in members:
                with archive.open(member) as file:
                    head = file.read(2**16)  # a header may claim gigabytes; real ones take hundreds of bytes
                _check_npy(f"{path}: {member.filename}", member.file_size, head)
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except DataError:
        raise
    except Exception as error:  # damaged bytes make the decoders raise anything
        raise DataError(f"{path} cannot be read as npz: {error}") from error


def check_size(name: str, num_bytes: int) -> None:
    """Refuse what would take more than MAX_BYTES of memory.

    Raises:
        DataError: it would.
    """
    if num_bytes > MAX_BYTES:
        raise DataError(f"{name} takes {num_bytes / 2**30:.1f} GiB, at most {MAX_BYTES / 2**30:g} GiB is accepted")


def _parse_idx(path: Path, file: io.BufferedIOBase) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES:
        raise DataError(
            f"{path} is not an IDX file: it begins with {magic.hex(' ') or 'nothing'}, 00 00 TYPE NDIM is expected"
        )
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise DataError(f"{path} is truncated: it ends inside its header of {magic[3]} dimensions")
    shape, dtype = struct.unpack(f">{magic[3]}I", header), np.dtype(_IDX_TYPES[magic[2]])
    expected = math.prod(shape) * dtype.itemsize
    check_size(f"{path} with shape {shape}", expected)
    content = _read(file, expected + 1)
    if len(content) != expected:
        received = f"{len(content)} bytes" if len(content) < expected else "more"
        raise DataError(f"{path} has {received} of values, its header {shape} promises {expected}: is it damaged?")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _read(file: io.BufferedIOBase, num: int) -> bytes:
    """At most num bytes; piece by piece, as read(num) takes num bytes of memory however few the file holds."""
    pieces = []
    while num > 0 and (piece := file.read(min(num, _PIECE))):
        pieces.append(piece)
        num -= len(piece)
    return b"".join(pieces)


def _check_npy(name: str, size: int, head: bytes) -> None:
    file = io.BytesIO(head)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise DataError(f"{name} is an object array, which could run code when it is read: numbers are expected")
    expected = math.prod(shape) * dtype.itemsize
    if size < expected:
        raise DataError(f"{name} has {size} bytes, its header {shape} promises {expected}: is it damaged?")
