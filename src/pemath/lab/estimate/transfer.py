"""What domain transfer by analogy would cost."""

from __future__ import annotations

from collections.abc import Iterator

from pemath.lab.estimate.curves import compositions_of
from pemath.lab.estimate.kind import Kind, Labelled, Texts, kinds
from pemath.lab.estimate.model_sizes import ModelSize, size_of
from pemath.lab.estimate.notes import PROMPTED, about_rows, about_size
from pemath.lab.estimate.parts import Amount, Estimate, Line, Rows, least
from pemath.lab.estimate.schedule import steps_of
from pemath.lab.estimate.sizes import TASK_SIZES
from pemath.lab.recipes.transfer import Transfer


def estimate_transfer(recipe: Transfer) -> Estimate:
    """What carrying out `recipe` would do and cost, if nothing of it were done yet."""
    size, seeds = size_of(recipe.model.name), len(recipe.seeds)
    found = kinds(recipe, size)
    rows = [_rows(recipe, name) for name in recipe.task_names()]
    trained = [
        n
        for one in recipe.task_names()
        for n in (_rows(recipe, one).train, _texts(recipe, one, size).count)
    ]
    steps = [steps_of(k.training, count) for k in found if k.pem == "full" for count in trained]
    return Estimate(
        experiment=recipe.experiment,
        model=recipe.model.name,
        size=size,
        dtype=recipe.model.dtype,
        seeds=seeds,
        cells=2 * seeds * len(found),
        rows=tuple(rows),
        lines=tuple(line for kind in found for line in _lines(recipe, kind, rows)),
        kept=tuple(
            kind.kept(
                # Classifiers and language models, which serve both directions.
                modules=4 * seeds,
                starts=seeds,
                compositions=2 * seeds * (2 + _followed(recipe, kind.pem)),
            )
            for kind in found
        ),
        notes=(*about_size(recipe, size, steps), *about_rows(rows), PROMPTED),
    )


def _lines(recipe: Transfer, kind: Kind, rows: list[Rows]) -> Iterator[Line]:
    seeds = len(recipe.seeds)
    for one in rows:
        yield kind.train_labels(Labelled(one.task, "classifier", one.train, one.tokens), seeds)
        yield kind.train_texts(_texts(recipe, one.task, kind.size), seeds)
    followed = seeds * _followed(recipe, kind.pem)
    for source, target in (rows, rows[::-1]):
        name = f"{source.task} to {target.task}"
        few = least(recipe.rows.few, target.validation)
        for part, times, asked, tokens in (
            # The classifiers of both domains are asked about the test part alone.
            ("test", followed + 2 * seeds, target.test, target.tokens),
            ("validation", followed, few, target.tokens),
            ("source", followed, source.validation, source.tokens),
        ):
            yield kind.ask_labels(Labelled(name, part, asked, tokens), times)


def _followed(recipe: Transfer, pem: str) -> int:
    return compositions_of(recipe.curves, recipe.weights, pem)


def _texts(recipe: Transfer, name: str, size: ModelSize | None) -> Texts:
    """What a language model reads of a domain: half of every review, where it writes the other."""
    known = TASK_SIZES.get(name)
    count = least(recipe.rows.texts, _room(recipe, name))
    tokens = recipe.model.max_length if known is None else known.tokens
    before = tokens // 2 if size is not None and size.two_sided else 0
    return Texts(name, "language model", count, tokens - before, before)


def _room(recipe: Transfer, name: str) -> Amount:
    known = TASK_SIZES.get(name)
    return None if known is None else max(known.train - recipe.rows.validation, 0)


def _rows(recipe: Transfer, name: str) -> Rows:
    given, known = recipe.rows, TASK_SIZES.get(name)
    return Rows(
        task=name,
        train=least(given.train, _room(recipe, name)),
        validation=given.validation,
        test=least(given.test, known.test if known else None),
        all_of=tuple(part for part in ("train", "test") if getattr(given, part) is None),
        tokens=least(known.prompt_tokens if known else None, recipe.model.max_length),
    )
