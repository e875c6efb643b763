"""What unlearning would cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pemath.lab.estimate.curves import compositions_of
from pemath.lab.estimate.kind import Kind, Running, Texts, kinds
from pemath.lab.estimate.model_sizes import size_of
from pemath.lab.estimate.notes import APPROXIMATE, WRITTEN, about_size
from pemath.lab.estimate.parts import Estimate, Line, Rows, least
from pemath.lab.estimate.schedule import steps_of
from pemath.lab.estimate.sizes import (
    CORPUS_SIZES,
    NEUTRAL_TOKENS,
    PAPER_PROMPT_TOKENS,
    PROVOKING_TOKENS,
)
from pemath.lab.recipes.curves import needed
from pemath.lab.recipes.subtraction import CLEAN, NEUTRALLY, PAPER, PROVOKED, Unlearning

_LONGEST = 32  # tokens of a prompt


def estimate_unlearning(recipe: Unlearning) -> Estimate:
    """What carrying out `recipe` would do and cost, if nothing of it were done yet."""
    size, seeds = size_of(recipe.model.name), len(recipe.seeds)
    found = kinds(recipe, size)
    steps = [steps_of(k.training, _texts(recipe, name).count)
             for k in found if k.pem == "full" for name in _used(recipe, k.pem)]  # fmt: skip
    notes = [*about_size(recipe, size, steps), WRITTEN]
    if any(name.startswith("hub/") for name in recipe.texts.values()):
        notes.append(APPROXIMATE)
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
                modules=seeds * len(_used(recipe, kind.pem)),
                starts=seeds,
                compositions=seeds * _compositions(recipe, kind.pem),
            )
            for kind in found
        ),
        notes=tuple(notes),
    )


def _lines(recipe: Unlearning, kind: Kind) -> Iterator[Line]:
    seeds = len(recipe.seeds)
    for name in _used(recipe, kind.pem):
        yield kind.train_texts(_texts(recipe, name), seeds)
    times = seeds * _compositions(recipe, kind.pem)
    beams = recipe.writing.beams
    for texts in _written(recipe):
        yield kind.write_texts(texts, times, beams, _LONGEST)
    for text in _read(recipe):
        yield kind.read_windows(text, times)


def _used(recipe: Unlearning, pem: str) -> list[str]:
    """The operands that are trained: what is unlearned, and what the curves take."""
    used = needed(recipe.curves, recipe.weights, recipe.texts, pem)
    first = next(iter(recipe.texts))
    return [name for name in recipe.texts if name in used | {first}]


def _compositions(recipe: Unlearning, pem: str) -> int:
    """For one seed: the untouched model, the module itself, and the curves."""
    return 2 + compositions_of(recipe.curves, recipe.weights, pem)


def _texts(recipe: Unlearning, operand: str) -> Texts:
    name = recipe.texts[operand]
    corpus = CORPUS_SIZES.get(name)  # none of a user's own file
    if corpus is None:
        return Texts(Path(name).name, operand, recipe.rows.train, recipe.model.max_length)
    # The end of every text is a token more.
    return Texts(name, operand, least(recipe.rows.train, corpus.texts), corpus.tokens + 1)


def _written(recipe: Unlearning) -> list[Texts]:
    asked, new = recipe.prompts, recipe.writing.new_tokens
    held_out = asked.validation * asked.validation_samples
    found = [
        Texts(PAPER, "test", asked.paper, new, PAPER_PROMPT_TOKENS),
        Texts(NEUTRALLY, "test", asked.neutral * asked.samples, new, NEUTRAL_TOKENS),
    ]
    if not asked.provoking:
        return [*found, Texts(NEUTRALLY, "validation", held_out, new, NEUTRAL_TOKENS)]
    return [
        *found,
        Texts(PROVOKED, "test", asked.provoking * asked.samples, new, PROVOKING_TOKENS),
        Texts(PROVOKED, "validation", held_out, new, PROVOKING_TOKENS),
    ]


def _read(recipe: Unlearning) -> list[Running]:
    clean, found = recipe.clean, []
    for part in ("test", "validation"):
        corpus = CORPUS_SIZES.get(getattr(clean, part))
        if corpus is None:  # a user's own file
            tokens = clean.tokens or clean.window
        else:
            whole = corpus.running or corpus.texts * corpus.tokens
            tokens = min(clean.tokens or whole, whole)
        found.append(Running(CLEAN, part, tokens, clean.window, clean.stride))
    return found


def _rows(recipe: Unlearning) -> Iterator[Rows]:
    used = {name for pem in recipe.modules.chosen() for name in _used(recipe, pem)}
    for name in recipe.texts:
        if name in used:
            texts, whole = _texts(recipe, name), ("train",) if recipe.rows.train is None else ()
            yield Rows(texts.task, texts.count, 0, 0, whole, texts.tokens)
    written = _written(recipe)
    held_out = written.pop()
    for texts in written:
        validation = held_out.count if held_out.task == texts.task else 0
        tokens = (texts.prompt or 0) + (texts.tokens or 0)
        yield Rows(texts.task, 0, validation, texts.count, (), tokens)
    read, beside = (len(text.windows()) for text in _read(recipe))
    yield Rows(CLEAN, 0, beside, read, (), recipe.clean.window)
