"""The desk: any question of any composition, each thing once, and answers that are the module's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from pemath.lab import desk as module_under_test  # noqa: E402
from pemath.lab.data.rows import Row, Writing  # noqa: E402
from pemath.lab.desk import Answered, Desk  # noqa: E402
from pemath.lab.likelihood import Likelihood, Reading  # noqa: E402
from pemath.lab.modules import attach  # noqa: E402
from pemath.lab.sampling import Decoding, Sampling  # noqa: E402
from pemath.lab.setting import Module, Setting  # noqa: E402
from pemath.lab.store import Store  # noqa: E402
from pemath.lab.train import Training  # noqa: E402
from pemath.lab.trials import Trials  # noqa: E402
from pemath.threads import silent  # noqa: E402
from tests.lab.tiny_models import save_model  # noqa: E402

LEARNED = {
    "good": [Row(("", f"the film was {word}"), 0) for word in ("good", "great", "fine")],
    "bad": [Row(("", f"the film was {word}"), 0) for word in ("bad", "awful", "dull")],
}
ROWS = [Row(("the film", "was good"), 0), Row(("", "the film was awful"), 0)]
LORA = {"target_modules": ["q_proj", "v_proj"], "rank": 2, "alpha": 4}


@dataclass
class Bench:
    """Two modules on a tiny model, and a store."""

    setting: Setting
    store: Store
    modules: dict[str, Module]
    spare: Path
    told: list[str] = field(default_factory=list)

    def desk(self, **questions: Any) -> Desk:
        return Desk(
            self.store,
            self.modules,
            questions,
            batch_size=2,
            statistics={},
            spare=self.spare,
            progress=lambda what, done, total: self.told.append(what),
        )

    def alone(self, question: Any, name: str | None = None) -> list[Any]:
        """What the module itself answers, as PEFT loads it; without a name the base."""
        base = self.setting.base("lora")
        answer = question.prepare(base, 2)
        model = attach(base, "lora", self.modules[name].folder).eval() if name else base.model
        found: list[Any] = answer(model, silent)
        return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Setting, dict[str, Module]]:
    root = tmp_path_factory.mktemp("desk")
    setting = Setting(
        str(save_model("causal", root / "model")), Writing(name="text"), 16, "float32", 0
    )
    training = Training(learning_rate=0.1, max_steps=8, batch_size=3)
    trials = Trials(Store(root / "store"))
    return setting, {
        name: trials.module(setting, "lora", LORA, training, rows, seed=1, start=1)
        for name, rows in LEARNED.items()
    }


@pytest.fixture
def bench(made: tuple[Setting, dict[str, Module]], tmp_path: Path) -> Bench:
    setting, modules = made
    (tmp_path / "spare").mkdir()
    return Bench(setting, Store(tmp_path / "store"), modules, tmp_path / "spare")


def likelihood(bench: Bench) -> Likelihood:
    return Likelihood(bench.setting, ROWS)


def losses(answered: Answered | list[Any]) -> list[float]:
    found = answered.predictions if isinstance(answered, Answered) else answered
    return [loss for loss, _ in found]


def test_a_module_answers_as_it_does_alone(bench: Bench) -> None:
    question = likelihood(bench)
    desk = bench.desk(likely=question)
    for name in ("good", "bad", "good"):
        answered = desk.answer(name, "likely")
        assert losses(answered) == pytest.approx(losses(bench.alone(question, name)), rel=1e-4)
        assert answered.error_to_exact == 0
    assert losses(desk.answer("good", "likely")) != pytest.approx(
        losses(desk.answer("bad", "likely")), rel=1e-2
    )


def test_nothing_of_a_module_is_the_base(bench: Bench) -> None:
    question = likelihood(bench)
    desk = bench.desk(likely=question)
    wanted = losses(bench.alone(question))
    assert losses(desk.answer("0*good", "likely")) == pytest.approx(wanted, rel=1e-5)
    assert losses(desk.answer("bad", "likely")) != pytest.approx(wanted, rel=1e-2)
    assert losses(desk.answer("good - good", "likely")) == pytest.approx(wanted, rel=1e-5)


def test_all_kinds_of_question_about_one_composition(bench: Bench) -> None:
    setting = bench.setting
    questions: dict[str, Any] = {
        "likely": likelihood(bench),
        "read": Reading(setting, "the film was good " * 5, 8, 4),
        "written": Sampling(setting, ["the film", "no"], 2, Decoding(new_tokens=4), 3),
    }
    desk = bench.desk(**questions)
    found = {name: desk.answer("bad", name).predictions for name in questions}
    assert found["written"] == bench.alone(questions["written"], "bad")
    for name in ("likely", "read"):
        assert losses(found[name]) == pytest.approx(
            losses(bench.alone(questions[name], "bad")), rel=1e-4
        )
    assert {*bench.told} == {"reading", "writing"}


def test_what_was_answered_is_not_asked_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = likelihood(bench)
    first = bench.desk(likely=question).answer("0.5*good + 0.5*bad", "likely")

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("this was done before")

    monkeypatch.setattr(Setting, "base", never)
    monkeypatch.setattr("pemath.composition.run.compose", never)
    assert bench.desk(likely=question).answer("0.5*good + 0.5*bad", "likely") == first


def test_equal_weights_are_asked_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = bench.desk(likely=likelihood(bench))
    first = desk.answer("good", "likely")
    monkeypatch.setattr(Desk, "_ask", lambda *_: pytest.fail("asked twice"))
    assert desk.answer("1*good + 0*bad", "likely").predictions == first.predictions


def test_the_base_is_loaded_once_for_all_questions(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts: list[Any] = []
    host = module_under_test.Host
    monkeypatch.setattr(
        module_under_test, "Host", lambda *words: hosts.append(words) or host(*words)
    )
    desk = bench.desk(likely=likelihood(bench), read=Reading(bench.setting, "the film " * 6, 8, 4))
    for text in ("good", "bad", "-0.5*good", "good + bad"):
        for name in ("likely", "read"):
            desk.answer(text, name)
    assert len(hosts) == 1


def test_another_batch_size_is_another_answer(bench: Bench) -> None:
    """Numbers differ in their last digits by how rows are batched: kept apart."""
    bench.desk(likely=likelihood(bench)).answer("good", "likely")
    Desk(
        bench.store,
        bench.modules,
        {"likely": likelihood(bench)},
        batch_size=1,
        statistics={},
        spare=bench.spare,
        progress=silent,
    ).answer("good", "likely")
    assert len(list((bench.store.root / "answers").iterdir())) == 2
    assert len(list((bench.store.root / "compositions").iterdir())) == 1


def test_how_far_a_method_is_from_the_exact_sum(bench: Bench) -> None:
    desk = bench.desk(likely=likelihood(bench))
    exact = desk.answer("0.5*good - 0.5*bad", "likely")
    paper = desk.answer("paper(good, bad, weights=[0.5, -0.5])", "likely")
    assert exact.error_to_exact is not None
    assert paper.error_to_exact is not None
    assert exact.error_to_exact < 1e-4 < paper.error_to_exact
    assert set(paper.site_errors) == set(exact.site_errors)
    assert len(paper.site_errors) == 4  # two layers, two maps


def test_errors_of_composing_are_raised(bench: Bench) -> None:
    from pemath.errors import ExpressionError, UsageError

    desk = bench.desk(likely=likelihood(bench))
    with pytest.raises(ExpressionError, match="nobody"):
        desk.answer("good + nobody", "likely")
    with pytest.raises(UsageError):
        desk.answer("papr(good, bad)", "likely")
    assert not (bench.store.root / "answers").exists()
