"""The safetensors reader and the streaming writer, on well-formed files."""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from pemath.errors import BadHeader, NonFiniteValue, StorageError, UnknownDtype
from pemath.formats.floats import BY_NAME, FLOAT_TYPES, narrow
from pemath.formats.safetensors import Spec, TensorFile, TensorWriter


def written(path: Path, specs: list[Spec], metadata: dict[str, str] | None = None) -> TensorFile:
    """A file with these tensors, each byte of them the number of its tensor."""
    path.unlink(missing_ok=True)
    writer = TensorWriter(path, specs, metadata or {})
    for number, spec in enumerate(specs):
        writer.write(spec.name, memoryview(bytes([number + 1]) * spec.nbytes))
    writer.close()
    return TensorFile.open(path)


# --------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("code", FLOAT_TYPES)
def test_values_come_out_as_float64(code: str, tmp_path: Path) -> None:
    values = np.array([[0.0, -0.5, 1.0], [1.5, -2.0, 192.0]])
    path = tmp_path / "x.safetensors"
    kind = FLOAT_TYPES[code]
    writer = TensorWriter(path, [Spec("t", code, (2, 3))], {})
    writer.write("t", narrow(values, kind))
    writer.close()
    opened = TensorFile.open(path)
    assert opened.float_type("t") is kind
    assert opened.stored("t").shape == (2, 3)
    assert opened.stored("t").widen().dtype == np.float64
    np.testing.assert_array_equal(opened.stored("t").widen(), values)


def test_what_the_reference_wrote(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "b": rng.standard_normal((3, 4)).astype(np.float32),
        "a": rng.standard_normal((2, 2, 2)).astype(np.float64),
        "c": rng.standard_normal(5).astype(np.float16),
        "d": np.array(2.5, np.float32),
        "e": np.empty((0, 3), np.float32),
        "i": np.arange(6, dtype=np.int64),
    }
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(tensors, path, {"format": "np", "é": "☃"})
    opened = TensorFile.open(path)
    assert opened.metadata == {"format": "np", "é": "☃"}
    assert set(opened.entries) == set(tensors)
    for name in "abcde":
        np.testing.assert_array_equal(opened.stored(name).widen(), tensors[name])
    assert bytes(opened.raw_bytes("i")) == tensors["i"].tobytes()


def test_order_of_the_header_is_kept(tmp_path: Path) -> None:
    header = {
        name: {"dtype": "U8", "shape": [1], "data_offsets": [at, at + 1]}
        for name, at in (("z", 1), ("a", 2), ("m", 0))
    }
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\1\2\3")
    opened = TensorFile.open(path)
    assert list(opened.entries) == ["z", "a", "m"]
    assert [bytes(opened.raw_bytes(name)) for name in "zam"] == [b"\2", b"\3", b"\1"]


def test_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    opened = written(tmp_path / "x", [Spec("t", "F32", (4, 4))])
    raw = opened.stored("t").raw
    assert not raw.flags.owndata
    assert not raw.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        raw[0, 0] = 1


def test_a_tensor_that_is_not_aligned(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}}'
    assert (8 + len(header)) % 8
    path = tmp_path / "x"
    path.write_bytes(len(header).to_bytes(8, "little") + header + np.array([1.5, 2.5]).tobytes())
    np.testing.assert_array_equal(TensorFile.open(path).stored("a").widen(), [1.5, 2.5])


@pytest.mark.parametrize("dtype", ["I8", "U8", "BOOL", "I64", "F8_E4M3", "F8_E5M2"])
def test_other_dtypes_have_bytes_but_no_values(dtype: str, tmp_path: Path) -> None:
    opened = written(tmp_path / "x", [Spec("t", dtype, (4,))])
    assert len(opened.raw_bytes("t")) == Spec("t", dtype, (4,)).nbytes
    for read in (opened.stored, opened.float_type, opened.refuse_non_finite):
        with pytest.raises(UnknownDtype, match="dtype") as refused:
            read("t")
        assert refused.value.found == dtype


def test_the_digest_is_of_the_whole_file(tmp_path: Path) -> None:
    writer = TensorWriter(tmp_path / "x", [Spec("t", "F32", (4,))], {})
    writer.write("t", np.arange(4, dtype=np.float32))
    digest = writer.close()
    assert digest == hashlib.sha256((tmp_path / "x").read_bytes()).hexdigest()


def test_the_map_outlives_the_name(tmp_path: Path) -> None:
    """An output may replace the file while it is being read."""
    opened = written(tmp_path / "x", [Spec("t", "U8", (3,))])
    (tmp_path / "x").unlink()
    assert bytes(opened.raw_bytes("t")) == b"\1\1\1"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc")
def test_files_are_closed(tmp_path: Path) -> None:
    def open_files() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    before = open_files()
    for _ in range(20):
        written(tmp_path / "x", [Spec("t", "U8", (3,))])
        (tmp_path / "y").write_bytes(b"\xff" * 8)
        with pytest.raises(BadHeader):
            TensorFile.open(tmp_path / "y")
    assert open_files() <= before + 4


@pytest.mark.parametrize("code", FLOAT_TYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_value_that_is_no_number_is_named(
    code: str, value: float, tmp_path: Path
) -> None:
    values = np.zeros((3, 4))
    values[1, 2] = values[2, 0] = value
    writer = TensorWriter(tmp_path / "x", [Spec("a.b", code, (3, 4))], {})
    writer.write("a.b", narrow(values, FLOAT_TYPES[code]))
    writer.close()
    opened = TensorFile.open(tmp_path / "x")
    with pytest.raises(NonFiniteValue, match=r"`a\.b` holds") as refused:
        opened.refuse_non_finite("a.b")
    assert "(1, 2)" in str(refused.value)


def test_missing_and_wrong_paths(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path, tmp_path / "a" / "b"):
        with pytest.raises(StorageError):
            TensorFile.open(path)


# --------------------------------------------------------------------------------------- writing


def test_what_is_written_is_read_by_the_reference(tmp_path: Path) -> None:
    specs = [
        Spec("a", "F32", (2, 3)),
        Spec("é", "F16", (5,)),
        Spec("", "F64", ()),
        Spec("z", "BF16", (0,)),
    ]
    path = tmp_path / "x"
    writer = TensorWriter(path, specs, {"b": "2", "a": "1"})
    for number, spec in enumerate(specs):
        writer.write(spec.name, memoryview(bytes([number]) * spec.nbytes))
    writer.close()
    found = dict(safetensors.deserialize(path.read_bytes()))
    assert {n: (t["dtype"], tuple(t["shape"])) for n, t in found.items()} == {
        s.name: (s.dtype, s.shape) for s in specs
    }
    assert bytes(found["é"]["data"]) == b"\1" * 10
    assert path.stat().st_size == writer.size


def test_tensors_are_aligned(tmp_path: Path) -> None:
    specs = [
        Spec(f"{code}{n}", code, (n,)) for code in ("BF16", "U8", "F64", "F32") for n in (1, 3)
    ]
    for entry in written(tmp_path / "x", specs).entries.values():
        assert entry.start % {"F64": 8, "F32": 4, "BF16": 2, "U8": 1}[entry.dtype] == 0


@settings(max_examples=100)
@given(order=st.permutations(range(6)), pieces=st.integers(1, 5))
def test_bytes_do_not_depend_on_any_order(order: list[int], pieces: int) -> None:
    specs = [Spec(f"t{n}", ("F32", "F16", "F64")[n % 3], (n + 1, 3)) for n in range(6)]
    data = {spec.name: bytes(range(len(spec.name) + spec.shape[0])) * spec.nbytes for spec in specs}
    results = []
    for listed, step in ((range(6), 1), (order, pieces)):
        metadata = {"a": "1", "b": "2"} if step == 1 else {"b": "2", "a": "1"}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x"
            writer = TensorWriter(path, [specs[n] for n in listed], metadata)
            for n in listed:
                name, size = specs[n].name, specs[n].nbytes
                cuts = [size * k // step for k in range(step + 1)]
                for start, stop in reversed(list(pairwise(cuts))):
                    writer.write(name, memoryview(data[name][start:stop]), start)
            writer.close()
            results.append(path.read_bytes())
    assert results[0] == results[1]


def test_many_threads(tmp_path: Path) -> None:
    specs = [Spec(f"t{n}", "F32", (64, 64)) for n in range(32)]
    writer = TensorWriter(tmp_path / "x", specs, {})
    arrays = {s.name: np.full(s.shape, n, np.float32) for n, s in enumerate(specs)}

    def work(part: int) -> None:
        for spec in specs[part::4]:
            writer.write(spec.name, arrays[spec.name])

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    opened = TensorFile.open(tmp_path / "x")
    for name, array in arrays.items():
        np.testing.assert_array_equal(opened.stored(name).widen(), array)


def test_arrays_in_any_memory_order(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    writer = TensorWriter(tmp_path / "x", [Spec(n, "F32", (4, 3)) for n in "ab"], {})
    writer.write("a", values.T)
    writer.write("b", np.asfortranarray(values.T))
    writer.close()
    opened = TensorFile.open(tmp_path / "x")
    for name in "ab":
        np.testing.assert_array_equal(opened.stored(name).widen(), values.T)


def test_a_tensor_that_is_not_whole(tmp_path: Path) -> None:
    writer = TensorWriter(tmp_path / "x", [Spec("a", "F32", (2,)), Spec("b", "F32", (2,))], {})
    writer.write("a", memoryview(bytes(8)))
    writer.write("b", memoryview(bytes(4)))
    with pytest.raises(ValueError, match="'b'"):
        writer.close()


@pytest.mark.parametrize(("size", "at"), [(9, 0), (8, 1), (1, 8), (1, -1), (4, 5)])
def test_bytes_outside_a_tensor(size: int, at: int, tmp_path: Path) -> None:
    writer = TensorWriter(tmp_path / "x", [Spec("a", "F32", (2,)), Spec("b", "F32", (9,))], {})
    with pytest.raises(ValueError, match="do not fit"):
        writer.write("a", memoryview(bytes(size)), at)
    writer.abandon()


def test_a_tensor_that_is_not_in_the_header(tmp_path: Path) -> None:
    writer = TensorWriter(tmp_path / "x", [Spec("a", "F32", (2,))], {})
    with pytest.raises(KeyError):
        writer.write("b", memoryview(bytes(8)))
    writer.abandon()


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        TensorWriter(path, [Spec("a", "F32", (2,))], {})
    assert path.read_text() == "precious"


def test_abandoning_twice(tmp_path: Path) -> None:
    writer = TensorWriter(tmp_path / "x", [Spec("a", "F32", (2,))], {})
    writer.abandon()
    writer.abandon()
    with pytest.raises(OSError, match="Bad file descriptor"):
        writer.write("a", memoryview(bytes(8)))


def test_no_tensors(tmp_path: Path) -> None:
    assert written(tmp_path / "x", [], {"format": "pt"}).entries == {}


@pytest.mark.parametrize("name", BY_NAME)
def test_sizes(name: str) -> None:
    kind = BY_NAME[name]
    assert Spec("t", kind.code, (3, 5)).nbytes == 15 * kind.size
    assert Spec("t", kind.code, ()).nbytes == kind.size
