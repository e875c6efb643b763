"""What merging two modules would cost: distribution generalisation and multi-tasking."""

from __future__ import annotations

from collections.abc import Iterator

from pemath.lab.data.tasks import TASKS
from pemath.lab.estimate.kind import Kind, Labelled, batches
from pemath.lab.estimate.model_sizes import ModelSize, size_of
from pemath.lab.estimate.notes import PROMPTED, about_rows, about_size
from pemath.lab.estimate.parts import (
    FORWARD,
    Amount,
    Estimate,
    Kept,
    Line,
    Rows,
    least,
    product,
    total,
)
from pemath.lab.estimate.schedule import CHOICE, Schedule, Settings, Trained, steps_of
from pemath.lab.estimate.sizes import TASK_SIZES
from pemath.lab.recipes.recipe import Recipe


def estimate_merge(recipe: Recipe) -> Estimate:
    """What carrying out `recipe` would do and cost, if nothing of it were done yet."""
    size = size_of(recipe.model.name)
    # Without a head, answers are words after a prompt.
    prompts = recipe.experiment == "multitask" or (size is not None and not size.head)
    rows = [_rows(recipe, name, prompts=prompts) for name in recipe.task_names()]
    merges = [_Merge(recipe, pem, size, rows, prompts=prompts) for pem in recipe.modules.chosen()]
    units = len(recipe.tasks) if recipe.experiment == "distribution" else 1
    lines = {merge: list(merge.lines()) for merge in merges}
    return Estimate(
        experiment=recipe.experiment,
        model=recipe.model.name,
        size=size,
        dtype=recipe.model.dtype,
        seeds=len(recipe.seeds),
        cells=len(recipe.seeds) * units * len(merges),
        rows=tuple(rows),
        lines=tuple(line for found in lines.values() for line in found),
        kept=tuple(merge.kept(found) for merge, found in lines.items()),
        notes=tuple(_notes(recipe, size, rows, prompts=prompts)),
    )


class _Merge:
    """One kind of module: its work on every task, for all seeds."""

    def __init__(
        self,
        recipe: Recipe,
        pem: str,
        size: ModelSize | None,
        rows: list[Rows],
        *,
        prompts: bool,
    ) -> None:
        self._recipe, self._rows = recipe, rows
        self._prompts, self._seeds = prompts, len(recipe.seeds)
        self._kind = Kind(recipe, pem, size)
        self._plan = Schedule(recipe, pem, [one.train for one in rows])

    def lines(self) -> Iterator[Line]:
        """Everything that is done."""
        for module in self._plan.trained():
            yield self._training(module)
            if module.part == CHOICE:
                yield self._asking("choose", module.task, "validation", module.times)
        for task in range(len(self._rows)):
            for part, times in self._plan.asked().items():
                if times:
                    yield self._asking("evaluate", task, part, self._seeds * times)
        for task, times in enumerate(self._plan.measured()):
            if times:
                yield from self._measuring(task, self._seeds * times)

    def kept(self, lines: list[Line]) -> Kept:
        """What the store keeps."""
        asked = sum(line.times for line in lines if line.work in ("choose", "evaluate"))
        return self._kind.kept(
            candidates=len(self._plan.candidates),
            modules=sum(module.times for module in self._plan.trained()),
            starts=self._seeds * self._plan.starts(),
            statistics=self._seeds * sum(self._plan.measured()),
            compositions=asked,
            head=self._head(),
        )

    def _training(self, module: Trained) -> Line:
        def steps(settings: Settings) -> Amount:
            return steps_of(settings, module.rows)

        def shown(settings: Settings) -> Amount:
            return product(steps(settings), least(settings["batch_size"], module.rows))

        rows = self._rows[module.task]
        tokens = self._kind.rows(rows.tokens).times(module.together(shown))
        return self._kind.line(
            "train",
            rows.task,
            module.part,
            times=module.times,
            rows=module.rows,
            steps=module.together(steps),
            tokens=tokens,
            operations=tokens.times(FORWARD + self._kind.backward, self._kind.working),
        )

    def _asking(self, work: str, task: int, part: str, times: int) -> Line:
        rows = self._rows[task]
        asked = rows.test if part == "test" else rows.validation
        return self._kind.ask_labels(Labelled(rows.task, part, asked, rows.tokens), times, work)

    def _measuring(self, task: int, times: int) -> Iterator[Line]:
        settings, kind = self._recipe.evaluation, self._kind
        # Every token's outer product is added to the Gram matrices.
        forward = total((product(FORWARD, kind.working), product(2, kind.grams())))
        # A row at a time, backwards once for each class.
        classes = 1 if self._prompts else _outputs(self._recipe, task)
        both = product(FORWARD + classes * kind.backward, kind.working)
        for work, most, batch_size, each in (
            ("gram", settings.gram_rows, settings.batch_size, forward),
            ("fisher", settings.fisher_rows, 1, both),
        ):
            rows = least(most, self._rows[task].train)
            tokens = kind.rows(self._rows[task].tokens).times(times, rows)
            yield kind.line(
                work,
                self._rows[task].task,
                "train",
                times=times,
                rows=rows,
                steps=product(times, batches(rows, batch_size)),
                tokens=tokens,
                operations=tokens.times(each),
            )

    def _head(self) -> Amount:
        """Parameters of the largest head among the tasks."""
        size = self._kind.size
        if size is None or self._prompts:
            return None if size is None else 0
        outputs = max(_outputs(self._recipe, task) for task in range(len(self._rows)))
        return size.head_parameters(outputs)


def _rows(recipe: Recipe, name: str, *, prompts: bool) -> Rows:
    given, size = recipe.rows, TASK_SIZES.get(name)
    room = test = tokens = None
    if size is not None:
        room = max(size.train - given.validation, 0)
        test, tokens = size.test, size.prompt_tokens if prompts else size.tokens
        if recipe.experiment == "distribution":
            room -= room // 2  # the larger half
    return Rows(
        task=name,
        train=least(given.train, room),
        validation=given.validation,
        test=least(given.test, test),
        all_of=tuple(part for part in ("train", "test") if getattr(given, part) is None),
        tokens=least(tokens, recipe.model.max_length),
    )


def _notes(
    recipe: Recipe, size: ModelSize | None, rows: list[Rows], *, prompts: bool
) -> Iterator[str]:
    """What the numbers rest on, where that is not plain."""
    if size is None:
        yield from about_size(recipe, size, [])
    yield from about_rows(rows)
    if prompts:
        yield PROMPTED
    if size is not None:
        yield from about_size(recipe, size, list(_steps_of_full(recipe, rows)))


def _steps_of_full(recipe: Recipe, rows: list[Rows]) -> Iterator[Amount]:
    if recipe.modules.full is not None:
        for module in Schedule(recipe, "full", [one.train for one in rows]).trained():
            yield from (steps_of(settings, module.rows) for settings in module.settings)


def _outputs(recipe: Recipe, task: int) -> int:
    """How many numbers the head of a task gives."""
    given = recipe.tasks[task]
    known = TASKS[given] if isinstance(given, str) else given
    return 1 if known.is_regression else len(known.labels or "01")  # labels not named: likely two
