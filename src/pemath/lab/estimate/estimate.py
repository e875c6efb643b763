"""What carrying out a recipe would do and cost, from the recipe alone: no torch, network or data."""

from __future__ import annotations

from collections.abc import Iterator

from pemath.lab.data.tasks import TASKS
from pemath.lab.estimate.parts import (
    FORWARD,
    THROUGH_FROZEN,
    THROUGH_TRAINED,
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
from pemath.lab.estimate.sizes import TASK_SIZES, ModelSize, size_of
from pemath.lab.recipes.recipe import Recipe
from pemath.lab.recipes.sections import Full
from pemath.names import display

__all__ = ["Estimate", "estimate"]

_BYTES = 4  # of a number in the store: float32
_CHECKPOINTS_FROM = 200  # steps


def estimate(recipe: Recipe) -> Estimate:
    """What carrying out `recipe` would do and cost, if nothing of it were done yet."""
    size = size_of(recipe.model.name)
    # Without a head, answers are words after a prompt.
    prompts = recipe.experiment == "multitask" or (size is not None and not size.head)
    rows = [_rows(recipe, name, prompts=prompts) for name in recipe.task_names()]
    kinds = [_Kind(recipe, pem, size, rows, prompts=prompts) for pem in recipe.modules.chosen()]
    units = len(recipe.tasks) if recipe.experiment == "distribution" else 1
    return Estimate(
        experiment=recipe.experiment,
        model=recipe.model.name,
        size=size,
        dtype=recipe.model.dtype,
        seeds=len(recipe.seeds),
        cells=len(recipe.seeds) * units * len(kinds),
        rows=tuple(rows),
        lines=tuple(line for kind in kinds for line in kind.lines()),
        kept=tuple(kind.kept() for kind in kinds),
        notes=tuple(_notes(recipe, size, rows, prompts=prompts)),
    )


class _Kind:
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
        self._recipe, self._pem, self._size, self._rows = recipe, pem, size, rows
        self._prompts, self._seeds = prompts, len(recipe.seeds)
        self._settings = recipe.modules.chosen()[pem]
        self._plan = Schedule(recipe, pem, [one.train for one in rows])
        self._working = None if size is None else size.working
        self._backward = THROUGH_TRAINED if pem == "full" else THROUGH_FROZEN

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

    def kept(self) -> Kept:
        """What the store keeps."""
        adapter, head = self._adapter(), self._head()
        trained = sum(module.times for module in self._plan.trained())
        return Kept(
            pem=self._pem,
            candidates=len(self._plan.candidates),
            modules=trained,
            starts=0 if self._pem == "full" else self._seeds * self._plan.starts(),
            trainable=total((adapter, head)),
            module_bytes=product(_BYTES, total((adapter, head))),
            statistics=self._seeds * sum(self._plan.measured()),
            statistics_bytes=product(_BYTES, total((self._grams(), adapter))),
        )

    def _training(self, module: Trained) -> Line:
        def steps(settings: Settings) -> Amount:
            return steps_of(settings, module.rows)

        def shown(settings: Settings) -> Amount:
            return product(steps(settings), least(settings["batch_size"], module.rows))

        return self._line(
            "train",
            module.task,
            module.part,
            times=module.times,
            rows=module.rows,
            steps=module.together(steps),
            shown=module.together(shown),
            each=product(FORWARD + self._backward, self._working),
        )

    def _asking(self, work: str, task: int, part: str, times: int) -> Line:
        rows = self._rows[task].test if part == "test" else self._rows[task].validation
        return self._line(
            work,
            task,
            part,
            times=times,
            rows=rows,
            steps=product(times, _batches(rows, self._recipe.evaluation.batch_size)),
            shown=product(times, rows),
            each=product(FORWARD, self._working),
        )

    def _measuring(self, task: int, times: int) -> Iterator[Line]:
        settings = self._recipe.evaluation
        # Every token's outer product is added to the Gram matrices.
        forward = total((product(FORWARD, self._working), product(2, self._grams())))
        # A row at a time, backwards once for each class.
        classes = 1 if self._prompts else _outputs(self._recipe, task)
        both = product(FORWARD + classes * self._backward, self._working)
        for work, most, batch_size, each in (
            ("gram", settings.gram_rows, settings.batch_size, forward),
            ("fisher", settings.fisher_rows, 1, both),
        ):
            rows = least(most, self._rows[task].train)
            yield self._line(
                work,
                task,
                "train",
                times=times,
                rows=rows,
                steps=product(times, _batches(rows, batch_size)),
                shown=product(times, rows),
                each=each,
            )

    def _line(
        self,
        work: str,
        task: int,
        part: str,
        *,
        times: int,
        rows: Amount,
        steps: Amount,
        shown: Amount,
        each: Amount,
    ) -> Line:
        """A line, from the rows `shown` to the model and the operations for `each` token."""
        tokens = product(shown, self._recipe.model.max_length)
        likely = product(shown, self._rows[task].tokens)
        return Line(
            work=work,
            pem=self._pem,
            task=self._rows[task].task,
            part=part,
            times=times,
            rows=rows,
            steps=steps,
            tokens=tokens,
            likely=likely,
            operations=product(tokens, each),
            likely_operations=product(likely, each),
        )

    def _adapter(self) -> Amount:
        """Parameters of the module without a head."""
        if self._size is None or self._pem == "full":
            return None if self._size is None else self._size.parameters
        shape = self._settings.shape()
        inner = shape.get("feedforward_modules")
        return self._size.adapter(_targets(self._settings), self._pem, shape.get("rank", 1), inner)

    def _head(self) -> Amount:
        """Parameters of the largest head among the tasks."""
        if self._size is None or self._prompts:
            return None if self._size is None else 0
        outputs = max(_outputs(self._recipe, task) for task in range(len(self._rows)))
        return self._size.head_parameters(outputs)

    def _grams(self) -> Amount:
        if self._size is None:
            return None
        return self._size.grams(_targets(self._settings), self._pem, self._adapter())


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
        name = display(recipe.model.name)
        yield f"the size of `{name}` is not known here: no operations, hours and disk space"
    if any(one.all_of and one.task.startswith("glue/") for one in rows):
        yield "`all` counts the official rows of GLUE; a data folder may hold fewer"
    if any(one.train is None or one.test is None for one in rows):
        yield "rows of your own files are counted only where the recipe says how many to use"
    if any(one.task not in TASK_SIZES for one in rows):
        yield "how long your own rows are is not known: all are counted with max_length"
    if prompts:
        yield "an answer counts as one pass: a label word of several tokens makes one per word"
    steps = [s for s in _steps_of_full(recipe, rows) if s is not None]
    if size is not None and max(steps, default=0) > _CHECKPOINTS_FROM:
        gigabytes = 3 * _BYTES * size.parameters / 1e9
        yield f"while a full module trains, its checkpoint takes {gigabytes:.1f} GB more"


def _steps_of_full(recipe: Recipe, rows: list[Rows]) -> Iterator[Amount]:
    if recipe.modules.full is not None:
        for module in Schedule(recipe, "full", [one.train for one in rows]).trained():
            yield from (steps_of(settings, module.rows) for settings in module.settings)


def _outputs(recipe: Recipe, task: int) -> int:
    """How many numbers the head of a task gives."""
    given = recipe.tasks[task]
    known = TASKS[given] if isinstance(given, str) else given
    return 1 if known.is_regression else len(known.labels or "01")  # labels not named: likely two


def _targets(settings: Full) -> list[str] | None:
    found: list[str] | None = settings.shape().get("target_modules")
    return found


def _batches(rows: Amount, size: int) -> Amount:
    return None if rows is None else -(-rows // size)
