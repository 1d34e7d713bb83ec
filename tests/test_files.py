import contextlib
import gzip
import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wspace import files
from wspace.errors import DataError

IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def idx_header(code, *shape):
    return bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


def npy_header(text):
    header = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def write_zip(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def peak_of_refusing(read, path):
    """The error, and the most memory that Python and NumPy held meanwhile."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as error:
            read(path)
        return str(error.value), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("code", IDX_TYPES)
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), (0,)])
def test_idx_of_every_type_is_read_as_written(tmp_path, rng, code, suffix, shape):
    values = rng.integers(0, 100, shape).astype(IDX_TYPES[code])
    content = idx_header(code, *shape) + values.tobytes()
    path = tmp_path / f"values{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    result = files.read_idx(path)
    np.testing.assert_array_equal(result, values)
    assert result.dtype == np.dtype(IDX_TYPES[code]).newbyteorder("=")


DAMAGED_IDX = {
    "empty": (b"", "begins with nothing, 00 00 TYPE NDIM is expected"),
    "short": (b"\0\0", "begins with 00 00"),
    "text": (b"label,pixel\n", "begins with 6c 61 62 65"),
    "gzip without its suffix": (gzip.compress(b"1234"), "begins with 1f 8b 08 00"),
    "unknown type": (idx_header(0x0A, 2) + b"12", "begins with 00 00 0a 01"),
    "inside the header": (idx_header(8, 2, 3)[:7], "ends inside its header of 2 dimensions"),
    "no values": (idx_header(8, 5), r"has 0 bytes of values, its header \(5,\) promises 5"),
    "truncated": (idx_header(0x0C, 2, 3) + bytes(23), r"has 23 bytes of values, its header \(2, 3\) promises 24"),
    "extra byte": (idx_header(8, 5) + bytes(6), r"has more of values, its header \(5,\) promises 5"),
    "too many dimensions": (idx_header(8, *[1] * 200) + b"1", "cannot be read as IDX: .*dimension"),
    "huge empty": (idx_header(8, 0, *[2**32 - 1] * 4), "cannot be read as IDX"),
    "huge": (idx_header(0x0E, *[2**32 - 1] * 3), r"with shape \(4294967295, .* GiB, at most 4 GiB is accepted"),
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(("content", "message"), DAMAGED_IDX.values(), ids=DAMAGED_IDX)
def test_damaged_idx_is_refused_with_what_it_holds(tmp_path, content, message, suffix):
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(DataError, match=message) as error:
        files.read_idx(path)
    assert str(path) in str(error.value)


def test_gzip_that_is_not_or_is_damaged_is_refused(tmp_path, rng):
    whole = gzip.compress(idx_header(8, 5000) + rng.bytes(5000))
    flipped = bytearray(whole)
    flipped[30:60] = bytes(30)
    checksum = whole[:-8] + bytes(8)
    path = tmp_path / "values.gz"
    for content in (b"\0\0\x08\x01", b"", whole[:-20], whole[:15], bytes(flipped), checksum):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"values\.gz"):
            files.read_idx(path)
    path.write_bytes(whole)
    assert len(files.read_idx(path)) == 5000


def test_what_is_not_a_file_is_refused(tmp_path):
    for read, kind in ((files.read_idx, "IDX"), (files.read_npz, "npz")):
        for path in (tmp_path / "missing", tmp_path):
            with pytest.raises(DataError, match=f"cannot be read as {kind}: .*(No such file|Is a directory)"):
                read(path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_header_that_promises_gigabytes_takes_no_memory(tmp_path, suffix):
    content = idx_header(8, 3, 2**30) + b"little"
    path = tmp_path / f"values{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    message, peak = peak_of_refusing(files.read_idx, path)
    assert "has 6 bytes of values" in message
    assert peak < 2 * files._PIECE


def test_gzip_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(idx_header(8, 10) + bytes(2**26)))
    message, peak = peak_of_refusing(files.read_idx, path)
    assert "has more of values" in message
    assert peak < 2**22


def test_npz_is_read_as_written(tmp_path, rng):
    arrays = {
        "a": rng.normal(size=(3, 4)),
        "fortran": np.asfortranarray(rng.normal(size=(3, 4)).astype(np.float32)),
        "big_endian": np.arange(5, dtype=">i4"),
        "flags": np.array([True, False]),
        "names": np.array(["x", "yy"]),
        "scalar": np.float64(3),
        "empty": np.zeros((0, 2)),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        result = files.read_npz(tmp_path / "a.npz")
        assert list(result) == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(result[name], array, strict=True)


class Touch:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_array_is_refused_and_never_run(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "a.npz"
    np.savez(path, x=np.array([Touch(marker)], object), y=np.arange(3))
    with np.load(path, allow_pickle=True) as arrays:
        _ = arrays["x"]
    assert marker.exists()  # the trap works on those who step into it
    marker.unlink()
    with pytest.raises(DataError, match=r"x\.npy is an object array, .*numbers are expected"):
        files.read_npz(path)
    assert not marker.exists()


def test_pickle_in_other_clothes_is_refused_and_never_run(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "a.npz"
    buffer = io.BytesIO()
    np.save(buffer, np.array([Touch(marker)], object), allow_pickle=True)
    payload = buffer.getvalue()[buffer.getvalue().index(b"\n") + 1 :]
    structured = npy_header("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,), }") + payload
    lying = npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }") + payload
    for content in (structured, lying, payload):
        write_zip(path, x=content)
        with contextlib.suppress(DataError):
            files.read_npz(path)
        assert not marker.exists()
    path.write_bytes(payload)
    with pytest.raises(DataError, match="cannot be read as npz"):
        files.read_npz(path)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="cannot be read as npz"):
        files.read_npz(path)
    assert not marker.exists()


HEADER = "{'descr': '<f8', 'fortran_order': False, 'shape': %s, }"
DAMAGED_NPY = {
    "huge": (npy_header(HEADER % f"({10**12},)"), "x.npy has 128 bytes, its header"),
    "beyond int64": (npy_header(HEADER % f"({2**70},)"), f"promises {2**73}"),
    "empty beyond int64": (npy_header(HEADER % f"(0, {2**70})"), "cannot be read as npz"),
    "negative": (npy_header(HEADER % "(-4,)"), "cannot be read as npz"),
    "two negatives": (npy_header(HEADER % "(-2, -2)") + bytes(32), "cannot be read as npz"),
    "truncated": (npy_header(HEADER % "(40,)") + bytes(31), r"has 159 bytes, its header \(40,\) promises 320"),
    "truncated a little": (npy_header(HEADER % "(4,)") + bytes(31), "expected 32 bytes got 31"),
    "no magic": (b"1,2\n3,4\n", "cannot be read as npz: .*magic"),
    "empty": (b"", "cannot be read as npz"),
    "no header": (npy_header(HEADER % "(4,)")[:20], "cannot be read as npz"),
    "bad header": (npy_header("{'descr': '<f8', 'shape': (4,), }"), "cannot be read as npz"),
    "nested header": (npy_header("(" * 110), "cannot be read as npz"),
    "unhashable header": (npy_header("{[]: 1}"), "cannot be read as npz"),
    "unknown version": (b"\x93NUMPY\x09\x00" + npy_header(HEADER % "(4,)")[8:] + bytes(32), "cannot be read as npz"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED_NPY.values(), ids=DAMAGED_NPY)
def test_damaged_npy_inside_an_npz_is_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as error:
        files.read_npz(write_zip(tmp_path / "a.npz", x=content))
    assert str(tmp_path / "a.npz") in str(error.value)


def test_truncated_npz_is_refused(tmp_path, rng):
    path = tmp_path / "a.npz"
    np.savez(path, x=rng.normal(size=(10, 3)), y=np.arange(10))
    content = path.read_bytes()
    for length in (0, 10, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match="cannot be read as npz"):
            files.read_npz(path)


def test_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 2**20)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(2**22))
    message, peak = peak_of_refusing(files.read_npz, tmp_path / "a.npz")
    assert "takes 0.0 GiB, at most 0.000976562 GiB is accepted" in message
    assert peak < 2**18


def test_cap_is_on_all_arrays_together(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(1000), y=np.zeros(1000))
    monkeypatch.setattr(files, "MAX_BYTES", 17000)
    assert set(files.read_npz(tmp_path / "a.npz")) == {"x", "y"}
    monkeypatch.setattr(files, "MAX_BYTES", 15000)
    with pytest.raises(DataError, match="with 2 arrays takes"):
        files.read_npz(tmp_path / "a.npz")


def test_header_of_gigabytes_is_not_read(tmp_path):
    content = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**26) + b" " * 2**26
    message, peak = peak_of_refusing(files.read_npz, write_zip(tmp_path / "a.npz", x=content))
    assert "array header" in message
    assert peak < 2**22


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_damage_is_refused_or_harmless(tmp_path_factory, data):
    """Whatever bytes change or are missing: arrays, or a DataError; never another exception."""
    folder = tmp_path_factory.getbasetemp()
    kind = data.draw(st.sampled_from(["idx", "idx.gz", "npz", "compressed"]))
    values = np.arange(24, dtype=">i4").reshape(2, 3, 4)
    if kind.startswith("idx"):
        path, read = folder / f"fuzz.{kind}", files.read_idx
        plain = idx_header(0x0C, 2, 3, 4) + values.tobytes()
        content = bytearray(gzip.compress(plain, mtime=0) if kind.endswith("gz") else plain)
    else:
        path, read = folder / "fuzz.npz", files.read_npz
        buffer = io.BytesIO()
        (np.savez if kind == "npz" else np.savez_compressed)(buffer, x=values, y=np.arange(2))
        content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.one_of(st.none(), st.integers(0, len(content))))])
    refusal = None
    try:
        read(path)
    except DataError as error:
        refusal = str(error)
    assert refusal is None or str(path) in refusal
