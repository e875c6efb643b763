"""Modules of one's own: trained on one's own files, evaluated, and their weights swept."""

from pemath.lab.own.bench import Asking
from pemath.lab.own.evaluating import Evaluated, evaluate
from pemath.lab.own.reading import read_text
from pemath.lab.own.scores import Score
from pemath.lab.own.subject import Subject
from pemath.lab.own.sweeping import Swept, sweep
from pemath.lab.own.training import Trained, train

__all__ = [
    "Asking",
    "Evaluated",
    "Score",
    "Subject",
    "Swept",
    "Trained",
    "evaluate",
    "read_text",
    "sweep",
    "train",
]
