"""Cutting rows: every row is somewhere, nothing is in two places, and the halves are skewed."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pemath.errors import RequestError
from pemath.lab.data.rows import Row, Task, order_key
from pemath.lab.data.split import (
    cut_off,
    head,
    hold_out,
    in_group_zero,
    sample,
    share_of,
    skewed_split,
    without,
)

CLASSES = Task(name="classes", labels=("a", "b", "c"), metric="accuracy")
SCORES = Task(name="scores", labels=(), metric="pearson_spearman")


def make(labels: list[int] | list[float]) -> tuple[Row, ...]:
    return tuple(Row((f"text {i}",), label) for i, label in enumerate(labels))


@st.composite
def tasks(draw: st.DrawFn) -> tuple[Task, tuple[Row, ...]]:
    if draw(st.booleans()):
        scores = st.sampled_from([0.0, 0.5, 1.0, 2.5, 4.0, 5.0])
        return SCORES, make(draw(st.lists(scores, max_size=40)))
    weights = draw(st.sampled_from([(0, 1, 2), (0, 0, 0, 0, 1), (1, 2), (0,), (1, 1, 1, 0)]))
    return CLASSES, make(draw(st.lists(st.sampled_from(weights), max_size=40)))


# --------------------------------------------------------------------------------- skewed halves


@given(tasks(), st.integers(0, 9), st.sampled_from([0.5, 0.6, 0.8, 0.9, 1.0]))
def test_every_row_is_in_exactly_one_half(
    drawn: tuple[Task, tuple[Row, ...]], seed: int, share: float
) -> None:
    task, rows = drawn
    first, second = skewed_split(rows, task, seed, share)
    assert Counter(first + second) == Counter(rows)
    assert len(first) == len(rows) // 2


@given(tasks(), st.sampled_from([0.5, 0.6, 0.8, 0.9, 1.0]))
def test_the_halves_are_as_skewed_as_the_share_says(
    drawn: tuple[Task, tuple[Row, ...]], share: float
) -> None:
    task, rows = drawn
    belongs = in_group_zero(rows, task)
    first, second = (sum(map(belongs, half)) for half in skewed_split(rows, task, 0, share))
    zero, other = first + second, len(rows) - first - second
    if int(Fraction(str(share)) * zero) < len(rows) // 2:
        assert first == int(Fraction(str(share)) * zero)
    else:
        others_in_second = len(rows) - len(rows) // 2 - second
        assert others_in_second == ceil(Fraction(str(share)) * other)


@given(st.integers(5, 60), st.integers(5, 60))
def test_the_first_half_leans_to_group_zero_and_both_have_both(zero: int, other: int) -> None:
    first, second = (
        share_of(half, lambda row: row.label == 0)
        for half in skewed_split(make([0] * zero + [1] * other), CLASSES, 0)
    )
    assert 0 < second < first < 1


@given(tasks(), st.integers(0, 9), st.integers(0, 9))
def test_the_seed_shuffles_halves_and_moves_no_row(
    drawn: tuple[Task, tuple[Row, ...]], seed: int, other: int
) -> None:
    task, rows = drawn
    halves = skewed_split(rows, task, seed)
    assert halves == skewed_split(rows, task, seed)
    for one, two in zip(halves, skewed_split(rows, task, other), strict=True):
        assert Counter(one) == Counter(two)


def test_the_numbers_of_the_paper_for_rte() -> None:
    task = Task(name="rte", labels=("entailment", "not_entailment"), metric="accuracy")
    rows = make([0] * 1249 + [1] * 1241)
    first, second = skewed_split(rows, task, 42)
    assert Counter(row.label for row in first) == {0: 999, 1: 246}
    assert Counter(row.label for row in second) == {0: 250, 1: 995}
    assert set(first) == {*rows[:999], *rows[1249 : 1249 + 246]}  # the first ones, as written


def test_a_large_first_label_mirrors_the_rule() -> None:
    task = Task(name="qqp", labels=("no", "yes"), metric="accuracy")
    first, second = skewed_split(make([0] * 700 + [1] * 300), task, 1)
    assert Counter(row.label for row in first) == {0: 440, 1: 60}
    assert Counter(row.label for row in second) == {0: 260, 1: 240}


def test_other_labels_are_pooled() -> None:
    rows = make([0, 1, 2] * 100)
    first, second = skewed_split(rows, CLASSES, 7)
    assert Counter(row.label for row in first) == {0: 80, 1: 35, 2: 35}
    assert Counter(row.label for row in second) == {0: 20, 1: 65, 2: 65}


def test_scores_are_cut_at_the_median() -> None:
    rows = make([float(i % 10) for i in range(100)])
    first, second = skewed_split(rows, SCORES, 7)
    low = in_group_zero(rows, SCORES)
    assert (share_of(rows, low), share_of(first, low), share_of(second, low)) == (0.5, 0.8, 0.2)
    mostly_lowest = make([0.0] * 6 + [1.0] * 4)
    assert share_of(mostly_lowest, in_group_zero(mostly_lowest, SCORES)) == 0.6


def test_a_head_keeps_the_distribution() -> None:
    rows = make([0, 1] * 5_000)
    for half, expected in zip(skewed_split(rows, CLASSES, 3), (0.8, 0.2), strict=True):
        assert len(head(half, 1_000)) == 1_000
        assert share_of(head(half, 1_000), lambda row: row.label == 0) == pytest.approx(
            expected, abs=0.05
        )
    assert head(rows, None) == rows


def test_seeds_give_different_heads() -> None:
    rows = make([0, 1] * 500)
    assert skewed_split(rows, CLASSES, 1)[0][:50] != skewed_split(rows, CLASSES, 2)[0][:50]


@pytest.mark.parametrize("share", [0.49, 1.1, -1.0])
def test_a_share_that_skews_nothing_is_refused(share: float) -> None:
    with pytest.raises(RequestError, match="share"):
        skewed_split(make([0, 1]), CLASSES, 0, share)


# ------------------------------------------------------------------------------------ held out


@given(tasks(), st.integers(0, 20))
def test_held_out_rows_are_distinct_balanced_and_gone(
    drawn: tuple[Task, tuple[Row, ...]], count: int
) -> None:
    task, rows = drawn
    rows = tuple(Row((f"text {i % 25}",), row.label) for i, row in enumerate(rows))
    groups: dict[float, set[tuple[str, ...]]] = {}
    for row in rows:
        groups.setdefault(0 if task.is_regression else row.label, set()).add(row.identity)
    room = {label: len(texts) // 2 for label, texts in groups.items()}
    if count > sum(room.values()):
        with pytest.raises(RequestError, match="too few rows"):
            hold_out(rows, task, count)
        return
    train, held_out = hold_out(rows, task, count)
    assert len(held_out) == count
    taken = {row.identity for row in held_out}
    assert not taken & {row.identity for row in train}
    assert all(row in rows for row in held_out)
    assert Counter(train) == Counter(row for row in rows if row.identity not in taken)
    quota = Counter(0 if task.is_regression else row.label for row in held_out)
    limit = max(quota.values(), default=0)
    for label, most in room.items():
        assert quota[label] <= most
        assert quota[label] in (limit, limit - 1, most)  # even, but for labels with no room left


def test_fewer_held_out_rows_are_part_of_more() -> None:
    rows = make([0, 1, 1, 2] * 50)
    few, many = (set(hold_out(rows, CLASSES, n)[1]) for n in (30, 60))
    assert few < many
    assert set(sample(rows, 10)) < set(sample(rows, 20))


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_what_is_held_out_depends_on_no_order(labels: list[int], random: object) -> None:
    rows = make(labels)
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    count = min(5, sum(n // 2 for n in Counter(labels).values()))
    assert set(hold_out(rows, CLASSES, count)[1]) == set(hold_out(shuffled, CLASSES, count)[1])
    assert set(sample(rows, 7)) == set(sample(shuffled, 7))
    assert set(cut_off(rows, CLASSES, 0.2)[1]) == set(cut_off(shuffled, CLASSES, 0.2)[1])


def test_a_fifth_of_every_label_is_cut_off() -> None:
    rows = make([0] * 100 + [1] * 50 + [2] * 10)
    train, test = cut_off(rows, CLASSES, 0.2)
    assert Counter(row.label for row in test) == {0: 20, 1: 10, 2: 2}
    assert Counter(train + test) == Counter(rows)


def test_identity_ignores_case_blanks_and_the_order_of_a_pair() -> None:
    rows = (Row(("A  b", "c"), 0), Row(("C", "a b"), 1), Row(("a b", "d"), 0))
    assert without(rows, [Row(("c ", "A B"), 1)]) == rows[2:]


def test_the_fixed_order_is_that_of_the_shipped_examples() -> None:
    from pemath.lab.examples_data import _shuffling_key

    assert order_key(Row(("some text",), 1)) == _shuffling_key(("some text", 1))
