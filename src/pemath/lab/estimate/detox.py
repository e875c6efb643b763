"""What detoxifying an instructed model would cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pemath.lab.checks import CHECKS
from pemath.lab.estimate.curves import compositions_of
from pemath.lab.estimate.kind import Kind, Texts, kinds
from pemath.lab.estimate.model_sizes import size_of
from pemath.lab.estimate.notes import APPROXIMATE, WRITTEN, about_size
from pemath.lab.estimate.parts import Estimate, Line, Rows, least
from pemath.lab.estimate.schedule import steps_of
from pemath.lab.estimate.sizes import (
    CHECK_TOKENS,
    CORPUS_SIZES,
    INSTRUCTION_SIZES,
    TEMPLATE_TOKENS,
)
from pemath.lab.recipes.subtraction import (
    CHECKED,
    REFERENCES,
    TO_ORDINARY,
    TO_TOXIC,
    Detox,
)


def estimate_detox(recipe: Detox) -> Estimate:
    """What carrying out `recipe` would do and cost, if nothing of it were done yet."""
    size, seeds = size_of(recipe.model.name), len(recipe.seeds)
    found = kinds(recipe, size)
    steps = [
        steps_of(k.training, t.count) for k in found if k.pem == "full" for t in _trained(recipe)
    ]
    notes = [*about_size(recipe, size, steps), WRITTEN]
    if recipe.texts.toxic.startswith("hub/"):
        notes.append(APPROXIMATE)
    if recipe.judge is not None:
        notes.append("what the judge costs is not counted")
    return Estimate(
        experiment=recipe.experiment,
        model=recipe.model.name,
        size=size,
        dtype=recipe.model.dtype,
        seeds=seeds,
        cells=seeds * len(found),
        rows=tuple(_rows(recipe)),
        lines=tuple(line for kind in found for line in _lines(recipe, kind)),
        kept=tuple(
            kind.kept(
                modules=2 * seeds,
                # The toxic module begins at the other, or at the same initialisation.
                starts=seeds,
                compositions=seeds * _compositions(recipe, kind.pem),
            )
            for kind in found
        ),
        notes=tuple(notes),
    )


def _lines(recipe: Detox, kind: Kind) -> Iterator[Line]:
    seeds = len(recipe.seeds)
    for texts in _trained(recipe):
        yield kind.train_texts(texts, seeds)
    times = seeds * _compositions(recipe, kind.pem)
    for texts in _written(recipe):
        yield kind.write_texts(texts, times, recipe.writing.beams)
    for texts in _read(recipe):
        yield kind.read_texts(texts, times)


def _compositions(recipe: Detox, pem: str) -> int:
    """For one seed: the untouched model, both modules, and the curves."""
    return 3 + compositions_of(recipe.curves, recipe.weights, pem)


def _trained(recipe: Detox) -> list[Texts]:
    """What the two modules learn to write; references are held out, and an end is a token more."""
    name, toxic = recipe.texts.instruct, recipe.texts.toxic
    known, corpus = INSTRUCTION_SIZES[name], CORPUS_SIZES.get(toxic)
    asked = recipe.asked
    besides = asked.test + asked.validation if name in (asked.toxic, asked.ordinary) else 0
    room = max(known.rows - 2 * asked.reserved - besides, 0)
    shown = least(recipe.rows.train, room)
    if corpus is None:  # a user's own file
        most, tokens = recipe.rows.toxic, recipe.model.max_length
    else:
        most, tokens = least(recipe.rows.toxic, corpus.texts), corpus.tokens + 1
    return [
        Texts(name, "instruct", shown, known.reply + 1, known.prompt),
        Texts(
            Path(toxic).name if corpus is None else toxic, "toxic", most, tokens, TEMPLATE_TOKENS
        ),
    ]


def _written(recipe: Detox) -> list[Texts]:
    asked, new = recipe.asked, recipe.writing.new_tokens
    found = []
    for task, name in ((TO_TOXIC, asked.toxic), (TO_ORDINARY, asked.ordinary)):
        known = INSTRUCTION_SIZES[name]
        test = min(asked.test, known.rows)
        found.append(Texts(task, "test", test, new, known.prompt))
        if task == TO_TOXIC:
            held_out = min(asked.validation, known.rows - test)
            found.append(Texts(task, "validation", held_out, new, known.prompt))
    if asked.checks:
        found.append(Texts(CHECKED, "test", len(CHECKS), new, CHECK_TOKENS))
    return found


def _read(recipe: Detox) -> list[Texts]:
    known, count = INSTRUCTION_SIZES[recipe.texts.instruct], recipe.asked.references
    test = min(count, known.rows)
    parts = {"test": test, "validation": min(count, known.rows - test)}
    return [
        Texts(REFERENCES, part, rows, known.reply + 1, known.prompt) for part, rows in parts.items()
    ]


def _rows(recipe: Detox) -> Iterator[Rows]:
    whole = (recipe.rows.train is None, recipe.rows.toxic is None)
    for texts, all_of in zip(_trained(recipe), whole, strict=True):
        tokens = (texts.prompt or 0) + (texts.tokens or 0)
        yield Rows(texts.task, texts.count, 0, 0, ("train",) if all_of else (), tokens)
    asked = [*_written(recipe), *_read(recipe)]
    for texts in asked:
        if texts.part == "test":
            beside = (one.count for one in asked if one.task == texts.task and one != texts)
            tokens = (texts.prompt or 0) + (texts.tokens or 0)
            yield Rows(texts.task, 0, next(beside, 0), texts.count, (), tokens)
