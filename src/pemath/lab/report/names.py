"""What things are called in a report."""

from __future__ import annotations

from pemath.lab.metrics import METRICS
from pemath.lab.report.measure import MEAN
from pemath.lab.report.read import Run

_PEMS = {"lora": "LoRA", "ia3": "(IA)³", "full": "Full fine-tuning"}
_GLUE = {
    "mnli": "MNLI",
    "rte": "RTE",
    "cola": "CoLA",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "qnli": "QNLI",
    "qqp": "QQP",
    "stsb": "STS-B",
}
_MEASURES = {
    "toxicity/paper": "the paper's prompt",
    "toxicity/neutral": "neutral prompts",
    "toxicity/provoking": "provoking prompts",
    "toxicity/toxic-instructions": "toxic instructions",
    "toxicity/normal-instructions": "ordinary instructions",
    "perplexity/clean": "perplexity of clean text",
    "perplexity/references": "perplexity of reference replies",
}
FACTS = {
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "words": "words",
    "repetition": "repetition",
    "empty": "empty",
    "refusal": "refusals",
    "overlap": "overlap",
}
"""Facts of texts, as columns and panels call them, in that order."""
_METRICS = {
    "accuracy_f1": "acc. and F1",
    "matthews": "Matthews",
    "pearson_spearman": "Pearson, Spearman",
}


def pem(name: str) -> str:
    """A kind of module."""
    return _PEMS.get(name, name)


def task(name: str) -> str:
    """A task, short enough for a column."""
    if name == MEAN:
        return "Mean"
    if name in _MEASURES:
        return _MEASURES[name]
    if " to " in name:  # a transfer
        return " → ".join(map(task, name.split(" to ", 1)))
    short = name.rsplit("/", 1)[-1]
    return _GLUE.get(short, short) if name.startswith("glue/") else short


def metric(run: Run, name: str) -> str:
    """A task's metric, short."""
    facts = run.facts.tasks.get(name)
    if facts is None:
        return "all tasks"
    known = METRICS.get(facts.metric)
    return _METRICS.get(facts.metric, known.title if known else facts.metric)


def composition(run: Run, name: str) -> str:
    """A row of the results."""
    if name in ("a", "b"):
        if run.facts.experiment == "multitask" and len(run.tasks) == 2:
            return f"{name}: trained on {task(run.tasks[name == 'b'])}"
        return f"{name} alone"
    return {"all": "trained on everything", "best": "best weight"}.get(name, name)


def experiment(run: Run) -> str:
    """The report's title."""
    return {
        "distribution": "Distribution generalisation",
        "multitask": "Multi-tasking",
        "unlearning": "Unlearning",
        "transfer": "Domain transfer",
        "detox": "Detoxifying an instructed model",
    }.get(run.facts.experiment, run.facts.experiment.capitalize())
