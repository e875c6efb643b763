"""Eleven weights of two LoRAs against eleven plain passes over the same rows, in one process.

Prints the seconds of both as JSON, each the median of turns that alternate. A plain pass asks the
model as it stands; what is measured composes, swaps and asks. Loading the base and encoding the
rows, which happen once, are in neither.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from pemath.composition.run import compose
from pemath.lab.data.rows import Row, Task
from pemath.lab.encoding import Encoder
from pemath.lab.evaluate import Host, Questions
from pemath.lab.examples_data import reviews
from pemath.lab.models import load_model

PAIR = {"a": "example:sentiment-lora-a", "b": "example:sentiment-lora-b"}
TURNS = int(sys.argv[1])
TASK = Task(name="reviews", labels=("negative", "positive"), metric="accuracy")

base = load_model("pip:minilm", outputs=2)
rows = [Row((text,), label) for text, label in reviews()]
questions = Questions(Encoder(base, TASK, 64), rows, 32)


def put_together(text: str, folder: Path) -> Path:
    used = {name: reference for name, reference in PAIR.items() if name in text}
    return compose(text, folder, operands=used, heads="average", force=True).folder


with tempfile.TemporaryDirectory() as scratch:
    composed = Path(scratch, "composed")
    host = Host(base, "lora", put_together("0.5*a + 0.5*b", composed))
    questions.ask(host.model)
    plain, swept, overhead = [], [], []
    for _ in range(TURNS):
        host.swap(put_together("0.5*a + 0.5*b", composed))
        start = time.perf_counter()
        for _ in range(11):
            questions.ask(host.model)
        plain.append(time.perf_counter() - start)
        start = time.perf_counter()
        aside = 0.0
        for tenth in range(11):
            begun = time.perf_counter()
            host.swap(put_together(f"{1 - tenth / 10:.1f}*a + {tenth / 10:.1f}*b", composed))
            aside += time.perf_counter() - begun
            questions.ask(host.model)
        swept.append(time.perf_counter() - start)
        overhead.append(aside)

print(
    json.dumps(
        {
            "rows": len(rows),
            "plain": statistics.median(plain),
            "swept": statistics.median(swept),
            "overhead": statistics.median(overhead),
        }
    )
)
