"""Every method on the 7B-shaped pair within 60 seconds, and TIES forty times faster than PEFT's.

Whole processes, the default options, but for the operands' rank where a method takes one, and density
0.5 for what mirrors PEFT (with its own default of one nothing is dropped). Beside them stands PEFT where it has the type: the factor-wise types as a
whole process over the same pair. Its svd types decompose every module as a dense matrix, which for
the pair would take hours: one module is measured, and the pair is that times its 224 modules, all
counted as 4096 x 4096 although 96 of them are larger.

Methods that are driven by data have no statistics here and are left out.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pemath
from pemath.errors import PemathError
from pemath.methods import Method, methods

from .. import adapters, runner
from ..adapters import Shape
from ..runner import Figure, Job, Timing
from .memory import peak

LIMIT = 60.0
TIES_LIMIT = 40.0
SIDE = 4096
DENSITY = 0.5
# What PEFT computes for the same purpose as a method of ours, where the names do not say it.
SAME = {"exact": "cat", "paper": "linear"}
FACTORWISE = ("linear", "cat", "ties", "dare_linear", "dare_ties", "magnitude_prune")
SVD = ("svd", "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd")
BASES = {"llama-7b": "llama", "roberta-base": "roberta"}


def measure(
    cache: Path, shape: Shape = adapters.LLAMA_7B, square: Shape = adapters.LLAMA_7B_ATTENTION
) -> Iterator[Figure]:
    pair = adapters.cached(cache, shape, "bfloat16", 2)
    peft: dict[str, dict[str, Any]] = {}
    for method in methods().values():
        if method.needs or method.origin or (call := call_of(method, pair, shape.rank)) is None:
            continue
        kind = peft_type(method.name)
        if kind and kind not in peft:
            peft[kind] = _peft(cache, shape, pair, kind, square)
        yield _method(cache, shape, pair, method, call, peft.get(kind or "", {}))
    if "ties" in methods():
        yield _ties(cache, square)


def peft_type(name: str) -> str | None:
    """PEFT's combination type that a method stands beside."""
    bare = name.removeprefix("peft_")
    for kind in (SAME.get(name), bare if bare != name else f"{name}_svd"):
        if kind in FACTORWISE + SVD:
            return kind
    return None


def call_of(method: Method, pair: list[Path], rank: int) -> str | None:
    """The call that is measured: the defaults, but for `rank`, a density at which something is dropped,
    and weights of both signs where it takes no others. None where it takes neither.
    """
    options: dict[str, Any] = {}
    if method.name.startswith("peft_") and "density" in method.options:
        options["density"] = DENSITY
    if "rank" in method.options:
        options["rank"] = rank
    for weights in ({}, {"weights": [1.3, -0.3]}):
        text = method.call("a", "b", **weights, **options)
        try:
            next(pemath.evaluate(text, operands=dict(zip("ab", pair, strict=True))))
        except PemathError as error:
            runner.progress(f"{text} is refused: {error.what}")
        else:
            return text
    return None


def _density(method: Method) -> float | None:
    option = method.options.get("density")
    return None if option is None else DENSITY if option.default == 1.0 else option.default


def _method(
    cache: Path, shape: Shape, pair: list[Path], method: Method, call: str, peft: dict[str, Any]
) -> Figure:
    with runner.scratch(cache) as out:
        merged = out / "merged"
        command = runner.pemath(
            "compose", call, *(f"{n}={p}" for n, p in zip("ab", pair, strict=True)), "--out", merged
        )
        runner.progress(f"memory: {method.name}")
        found = peak(command, {str(adapters.tensors_file(o).resolve()) for o in pair})
        timing = Timing([found["seconds"]], [found["cpu_seconds"]])
        if found["seconds"] < 10:  # what takes long is measured once, memory beside it
            timing = Timing([], [])
            for turn in range(3):
                runner.progress(f"{method.name}  {turn + 1}/3")
                wall, cpu = runner.run(Job(method.name, command, merged))
                timing.wall.append(wall)
                timing.cpu.append(cpu)
        error = json.loads((merged / "pemath.lock.json").read_text())["certificate"]["error"]
    memory = sum(found[part] for part in ("anonymous", "other_files", "unseen"))
    return Figure(
        claim=f"methods on {shape.name}, rank {shape.rank}, two operands, bfloat16",
        case=method.name,
        unit="s",
        value=timing.median,
        limit=LIMIT,
        notes={
            "call": call,
            "pemath": timing.notes(),
            "memory": {part: round(value, 1) for part, value in found.items()},
            "error": error,
            "peft": peft,
        },
        columns={
            "space": method.space,
            "memory": f"{memory:,.0f} MB",
            "from the exact sum": f"{100 * error:.3g} %",
            **_beside(peft, timing.median),
        },
    )


def _beside(peft: dict[str, Any], ours: float) -> dict[str, str]:
    if not peft:
        return {"PEFT": "–", "PEFT takes": "–", "times ours": "–"}
    about = "about " if peft["modules"] > 1 else ""
    detail = f" ({peft['seconds']:,.3g} s a module)" if about else ""
    whole = peft["seconds"] * peft["modules"]
    return {
        "PEFT": peft["type"],
        "PEFT takes": f"{about}{whole:,.3g} s{detail}",
        "times ours": f"{about}{whole / ours:,.3g}",
    }


def _peft(cache: Path, shape: Shape, pair: list[Path], kind: str, square: Shape) -> dict[str, Any]:
    """PEFT's seconds: of a whole process, or of one module and how many there are."""
    densities = {_density(m) for m in methods().values() if peft_type(m.name) == kind}
    density = next((d for d in densities if d is not None), None)
    found: dict[str, Any] = {"type": kind, "density": density}
    if kind in SVD:
        wall, cpu = _peft_site(kind, square.rank, density, _side(square))
        return found | {"seconds": wall, "cpu_seconds": cpu, "modules": len(shape.sites)}
    with runner.scratch(cache) as out:
        words = ("plain", BASES[shape.name], f"{kind}@{density or 0}", 0, out / "peft", *pair)
        runner.progress(f"PEFT {kind}, whole process")
        wall, cpu = runner.run(Job(kind, runner.peer("peft_combine.py", *words), out / "peft"))
    return found | {"seconds": wall, "cpu_seconds": cpu, "modules": 1}


def _peft_site(kind: str, rank: int, density: float | None, side: int) -> tuple[float, float]:
    """Wall-clock and processor seconds of PEFT's call on one module, everything loaded."""
    runner.progress(f"PEFT {kind}, one module")
    command = runner.peer("peft_svd_site.py", rank, kind, density or 0, side)
    done = subprocess.run(
        command, env=runner.environment(), check=True, capture_output=True, text=True
    )
    wall, cpu = map(float, done.stdout.split())
    return wall, cpu


def _side(square: Shape) -> int:
    [(rows, columns)] = set(square.sites.values())
    assert rows == columns
    return rows


def _ties(cache: Path, square: Shape) -> Figure:
    """Processor time per module on one thread: ours of a whole process over all the modules."""
    density = methods()["ties"].options["density"].default
    _, theirs = _peft_site("ties_svd", square.rank, density, _side(square))
    pair = adapters.cached(cache, square, "float32", 2)
    text = methods()["ties"].call("a", "b", density=density, rank=square.rank)
    with runner.scratch(cache) as out:
        command = runner.pemath(
            "compose",
            text,
            *(f"{n}={p}" for n, p in zip("ab", pair, strict=True)),
            "--out",
            out / "t",
        )
        runner.progress(f"ties, {len(square.sites)} modules")
        _, cpu = runner.run(Job("ties", command, out / "t"))
    ours = cpu / len(square.sites)
    side = _side(square)
    return Figure(
        claim="ties",
        case=f"rank {square.rank}, one {side} x {side} module, processor time, PEFT's ties_svd",
        unit="x faster",
        value=theirs / ours,
        limit=TIES_LIMIT,
        at_least=True,
        notes={"PEFT": theirs, "pemath_per_module": ours, "call": text},
    )
