"""One kind of module of a recipe: what it costs to train it, to ask it and to keep it."""

from __future__ import annotations

from dataclasses import dataclass

from pemath.lab.estimate.model_sizes import ModelSize
from pemath.lab.estimate.parts import (
    BYTES,
    FORWARD,
    THROUGH_FROZEN,
    THROUGH_TRAINED,
    Amount,
    Both,
    Kept,
    Line,
    least,
    product,
    total,
)
from pemath.lab.estimate.schedule import Settings, steps_of
from pemath.lab.recipes.common import Common
from pemath.lab.recipes.sections import Full


@dataclass(frozen=True)
class Texts:
    """Texts that follow prompts: how many, and the tokens of a usual text and a usual prompt."""

    task: str
    part: str
    count: Amount
    tokens: Amount
    prompt: Amount = 0


@dataclass(frozen=True)
class Labelled:
    """Rows of a task: how many, and the tokens of a usual one."""

    task: str
    part: str
    count: Amount
    tokens: Amount


@dataclass(frozen=True)
class Running:
    """A text read a window at a time, as `pemath.lab.perplexity.windows` reads it."""

    task: str
    part: str
    tokens: int
    window: int
    stride: int

    def windows(self) -> list[int]:
        """The tokens of every window."""
        last = max(self.tokens - self.window, 0)
        starts = range(0, last + self.stride, self.stride)
        return [min(self.window, self.tokens - start) for start in starts]


@dataclass(frozen=True)
class Kind:
    """One kind of module on the recipe's model, whose size may be unknown."""

    recipe: Common
    pem: str
    size: ModelSize | None

    @property
    def settings(self) -> Full:
        """Its section of the recipe."""
        return self.recipe.modules.chosen()[self.pem]

    @property
    def training(self) -> Settings:
        """How it is trained, where there is one way."""
        return self.recipe.training_of(self.settings.candidates()[0])

    @property
    def working(self) -> Amount:
        """The parameters that are multiplied for a token of the input."""
        return None if self.size is None else self.size.working

    @property
    def backward(self) -> int:
        """Operations per token and parameter, backwards."""
        return THROUGH_TRAINED if self.pem == "full" else THROUGH_FROZEN

    def train_texts(self, texts: Texts, times: int) -> Line:
        """So many modules trained to write the texts."""
        tokens, products = self._text(texts)
        shown = product(steps_of(self.training, texts.count), self._batch(texts.count))
        return self.line(
            "train",
            texts.task,
            texts.part,
            times=times,
            rows=texts.count,
            steps=product(times, steps_of(self.training, texts.count)),
            tokens=tokens.times(times, shown),
            operations=products.times(times, shown, FORWARD + self.backward),
        )

    def read_texts(self, texts: Texts, times: int) -> Line:
        """So many compositions asked how likely they find the texts."""
        tokens, products = self._text(texts)
        return self.line(
            "read",
            texts.task,
            texts.part,
            times=times,
            rows=texts.count,
            steps=product(times, self.batches(texts.count)),
            tokens=tokens.times(times, texts.count),
            operations=products.times(times, texts.count, FORWARD),
        )

    def read_windows(self, text: Running, times: int) -> Line:
        """So many compositions asked how likely they find a running text."""
        read = sum(text.windows())
        beyond = None if self.size is None else self.size.writing - self.size.working
        operations = total((product(read, self.working), product(text.tokens, beyond)))
        return self.line(
            "read",
            text.task,
            text.part,
            times=times,
            rows=len(text.windows()),
            steps=times * len(text.windows()),
            tokens=Both(read, read).times(times),
            operations=Both(operations, operations).times(times, FORWARD),
        )

    def write_texts(self, texts: Texts, times: int, beams: int = 1, longest: Amount = None) -> Line:
        """So many compositions asked to write so many texts of so many tokens; a prompt has at most
        `longest` tokens, or what fits. Every token is a step.
        """
        longest = least(longest, self.recipe.model.max_length)
        prompt = Both(longest, least(texts.prompt, longest)).times(texts.count, beams)
        new = Both(texts.tokens, texts.tokens).times(texts.count, beams)
        writing = None if self.size is None else self.size.writing
        return self.line(
            "write",
            texts.task,
            texts.part,
            times=times,
            rows=texts.count,
            steps=product(times, self.batches(texts.count), texts.tokens),
            tokens=prompt.plus(new).times(times),
            operations=prompt.times(self.working).plus(new.times(writing)).times(times, FORWARD),
        )

    def train_labels(self, rows: Labelled, times: int) -> Line:
        """So many modules trained to answer rows of a task."""
        steps = steps_of(self.training, rows.count)
        tokens = self.rows(rows.tokens).times(times, steps, self._batch(rows.count))
        return self.line(
            "train",
            rows.task,
            rows.part,
            times=times,
            rows=rows.count,
            steps=product(times, steps),
            tokens=tokens,
            operations=tokens.times(FORWARD + self.backward, self.working),
        )

    def ask_labels(self, rows: Labelled, times: int, work: str = "evaluate") -> Line:
        """So many compositions asked about rows of a task."""
        tokens = self.rows(rows.tokens).times(times, rows.count)
        return self.line(
            work,
            rows.task,
            rows.part,
            times=times,
            rows=rows.count,
            steps=product(times, self.batches(rows.count)),
            tokens=tokens,
            operations=tokens.times(FORWARD, self.working),
        )

    def line(
        self,
        work: str,
        task: str,
        part: str,
        *,
        times: int,
        rows: Amount,
        steps: Amount,
        tokens: Both,
        operations: Both,
    ) -> Line:
        """A line of this kind."""
        return Line(
            work=work,
            pem=self.pem,
            task=task,
            part=part,
            times=times,
            rows=rows,
            steps=steps,
            tokens=tokens.most,
            likely=tokens.likely,
            operations=operations.most,
            likely_operations=operations.likely,
        )

    def kept(
        self,
        *,
        modules: int,
        starts: int,
        compositions: int,
        candidates: int = 1,
        statistics: int = 0,
        head: Amount = 0,
    ) -> Kept:
        """What the store keeps; `starts` are saved initialisations, which only adapters have."""
        adapter = self.adapter()
        trainable = total((adapter, None if self.size is None else head))
        return Kept(
            pem=self.pem,
            candidates=candidates,
            modules=modules,
            starts=0 if self.pem == "full" else starts,
            trainable=trainable,
            module_bytes=product(BYTES, trainable),
            statistics=statistics,
            statistics_bytes=product(BYTES, total((self.grams(), adapter))),
            compositions=compositions,
        )

    def rows(self, usual: Amount) -> Both:
        """The tokens of one row of a task."""
        most = self.recipe.model.max_length
        return Both(most, least(usual, most) if usual is not None else most)

    def batches(self, rows: Amount) -> Amount:
        """How many batches are asked."""
        return batches(rows, self.recipe.evaluation.batch_size)

    def adapter(self) -> Amount:
        """Parameters of the module without a head."""
        if self.size is None or self.pem == "full":
            return None if self.size is None else self.size.parameters
        shape = self.settings.shape()
        inner = shape.get("feedforward_modules")
        return self.size.adapter(self._targets(), self.pem, shape.get("rank", 1), inner)

    def grams(self) -> Amount:
        """Numbers in its Gram matrices."""
        if self.size is None:
            return None
        return self.size.grams(self._targets(), self.pem, self.adapter())

    def _text(self, texts: Texts) -> tuple[Both, Both]:
        """The tokens of one of the texts with its prompt, and the sum over them of the parameters
        that each is multiplied with.
        """
        most = self.recipe.model.max_length
        if self.size is not None and self.size.two_sided:
            prompt, text = self.rows(texts.prompt), self.rows(texts.tokens)
            products = prompt.times(self.size.working).plus(text.times(self.size.writing))
            return prompt.plus(text), products
        tokens = Both(most, least(total((texts.prompt, texts.tokens)), most))
        return tokens, tokens.times(None if self.size is None else self.size.writing)

    def _batch(self, rows: Amount) -> Amount:
        return least(self.training["batch_size"], rows)

    def _targets(self) -> list[str] | None:
        found: list[str] | None = self.settings.shape().get("target_modules")
        return found


def kinds(recipe: Common, size: ModelSize | None) -> list[Kind]:
    """All kinds of module of the recipe."""
    return [Kind(recipe, pem, size) for pem in recipe.modules.chosen()]


def batches(rows: Amount, size: int) -> Amount:
    """How many batches of `size` hold the rows."""
    return None if rows is None else -(-rows // size)
