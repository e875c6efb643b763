"""Recipes of unlearning, detoxifying and transfer: what is read, and every mistake with its place."""

import copy
import json

import pytest

from pemath.errors import ConfigError
from pemath.lab.recipes.curves import Curve, needed, spans_of
from pemath.lab.recipes.reading import parse_recipe, preset_recipe
from pemath.lab.sampling import Decoding

LORA = {"lora": {"target_modules": ["q_proj"]}}
UNLEARNING = {
    "experiment": "unlearning",
    "model": {"name": "pip:smollm2"},
    "texts": {"toxic": "toxic/civil", "useful": "clean/olid"},
    "modules": LORA,
    "curves": {"negation": "-w*toxic", "projected": "-w*unshared(toxic, useful)"},
    "weights": [0.5, 1],
    "seeds": [1],
}
DETOX = {
    "experiment": "detox",
    "model": {"name": "pip:smollm2"},
    "modules": LORA,
    "curves": {"exact": "(1+w)*instruct - w*toxic"},
    "weights": "0:1:0.5",
    "seeds": [1],
}
TRANSFER = {
    "experiment": "transfer",
    "model": {"name": "pip:smollm2"},
    "tasks": ["packages/movies", "packages/amazon"],
    "modules": LORA,
    "curves": {"analogy": "w*source + (1-w)*(target_lm - source_lm)"},
    "weights": [0.9, 1],
    "seeds": [1],
}
ALL = [UNLEARNING, DETOX, TRANSFER]


def mistakes(content, **sections):
    """Message of every mistake by its place."""
    with pytest.raises(ConfigError) as caught:
        parse_recipe({**copy.deepcopy(content), **sections})
    lines = caught.value.what.split("\n")[1:]
    return dict(line.strip()[1:].split("`: ", 1) for line in lines)


@pytest.mark.parametrize("content", ALL)
def test_what_is_read_can_be_read_again(content):
    recipe = parse_recipe(content)
    assert parse_recipe(json.loads(json.dumps(recipe.model_dump(mode="json")))) == recipe
    assert recipe.changed(seeds=[7]).seeds == [7]


def test_what_is_left_out_has_the_defaults():
    recipe = parse_recipe(UNLEARNING)
    assert recipe.writing.decoding() == Decoding()
    assert recipe.rows.train is None
    assert (recipe.clean.window, recipe.clean.stride) == (1024, 512)  # as the authors read
    assert recipe.choice.budget == 0.1
    assert recipe.task_names() == []
    assert recipe.curves["negation"] == Curve(expression="-w*toxic")
    assert parse_recipe(DETOX).toxic_starts_from == "instruct"
    assert parse_recipe(TRANSFER).task_names() == ["packages/movies", "packages/amazon"]


def test_a_curve_may_hold_for_some_kinds_of_module():
    some = {"expression": "-w*unshared(toxic, useful)", "modules": ["lora"]}
    recipe = parse_recipe(
        UNLEARNING | {"curves": {"negation": "-w*toxic", "projected": some}}
        | {"modules": {**LORA, "full": {}}}
    )  # fmt: skip
    assert [recipe.curves["projected"].holds_for(pem) for pem in ("lora", "full")] == [True, False]
    for pem, used in (("lora", {"toxic", "useful"}), ("full", {"toxic"})):
        assert needed(recipe.curves, recipe.weights, recipe.texts, pem) == used
    assert list(map(float, spans_of("0:1:0.5")["w"].values)) == [0, 0.5, 1]


@pytest.mark.parametrize("content", ALL)
@pytest.mark.parametrize(
    ("sections", "place", "message"),
    [
        ({"curves": {}}, "curves", "at least 1"),
        ({"curves": {"x": 3}}, "curves.x", "valid dictionary"),
        ({"curves": {"1st": "w*toxic"}}, "curves.1st", "cannot have this name"),
        ({"curves": {"x": {"expresion": "w"}}}, "curves.x.expression", "is missing"),
        (
            {"curves": {"x": {"expression": "w", "modules": ["LoRA"]}}},
            "curves.x.modules[0]",
            "'full'",
        ),
        ({"curves": {"x": {"expression": "w", "modules": []}}}, "curves.x.modules", "at least 1"),
        (
            {"curves": {"x": {"expression": "w", "modules": ["lora", "lora"]}}},
            "curves.x.modules",
            "only once",
        ),
        ({"weights": 3}, "weights", "write START:STOP:STEP"),
        ({"weights": "0:1:0.3"}, "weights", "does not reach its end"),
        ({"weights": "0:1"}, "weights", "without a step"),
        ({"weights": []}, "weights", "needs values"),
        ({"weights": ["much"]}, "weights", "START:STOP:STEP"),
        ({"modules": {"lora": {"grid": {"epochs": [1.0]}}}}, "modules.lora.grid", "not searched"),
        ({"model": {"name": "pip:minilm"}}, "model.name", "needs a model that generates text"),
        ({"model": {"name": "FacebookAI/roberta-base"}}, "model.name", "generates text"),
        ({"sweep": {}}, "sweep", "there is no key `sweep`"),
        ({"initialisation": ["shared"]}, "initialisation", "there is no key"),
        ({"seeds": []}, "seeds", "at least 1"),
    ],
)
def test_mistakes_in_all_of_them(content, sections, place, message):
    found = mistakes(content, **sections)
    assert message in found[place], found
    assert {one.split(".")[0] for one in found} == {place.split(".")[0]}, found


EXPRESSIONS = [
    ("w*{0} + w*nobody", "`nobody` is not bound"),
    ("w*{0} +", "at character"),
    ("{0}", "does not use `w`"),
    ("0.5*{0}", "does not use `w`"),
    ("{0}/(w-0.5)", "divided by zero"),
    ("papr({0}, {1}, weights=[w, 1])", "did you mean `paper`"),
    ("paper({0}, {1}, weights=[w])", "one number per operand"),
    ("paper({0}, {1}, normalise=true)", "no option `normalise`"),
    ("regmean({0}, {1}, weights=[w, 1])", "a method that needs data has none"),
    ("w*{0} + 0*fisher({0}, {1})", "a method that needs data has none"),
    ("v*{0}", "`v` is not bound"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "operands"),
    [
        (UNLEARNING, ["toxic", "useful"]),
        (DETOX, ["instruct", "toxic"]),
        (TRANSFER, ["source", "target_lm"]),
    ],
    ids=["unlearning", "detox", "transfer"],
)
@pytest.mark.parametrize(("text", "message"), EXPRESSIONS)
def test_expressions_that_cannot_be_followed(content, operands, text, message):
    curves = {"x": text.format(*operands)}
    weights = [0.5, 1]
    found = mistakes(content, curves=curves, weights=weights)
    assert list(found) == ["curves.x"], found
    assert message in found["curves.x"]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (UNLEARNING, ["base", "toxic", "useful"]),
        (DETOX, ["base", "instruct", "toxic"]),
        (TRANSFER, ["source", "target", "target_lm"]),
    ],
)
def test_names_that_a_curve_cannot_have(content, names):
    text = next(iter(content["curves"].values()))
    for name in names:
        found = mistakes(content, curves={**content["curves"], name: text})
        assert found == {f"curves.{name}": "this name is taken"}


def test_a_kind_of_module_that_is_not_trained():
    curve = {"expression": "-w*toxic", "modules": ["lora", "ia3"]}
    found = mistakes(UNLEARNING, curves={"x": curve}, texts={"toxic": "toxic/civil"})
    assert found == {"curves.x": "`ia3` is not among the modules"}


def test_a_classifier_of_the_target_is_no_operand():
    """It is what the analogy is measured against."""
    found = mistakes(TRANSFER, curves={"x": "w*source + (1-w)*target"})
    assert "`target` is not bound" in found["curves.x"]


@pytest.mark.parametrize(
    ("sections", "place", "message"),
    [
        ({"texts": {}}, "texts", "at least 1"),
        ({"texts": {"toxic": "toxic/civl"}}, "texts.toxic", "did you mean `toxic/civil`"),
        ({"texts": {"a-b": "toxic/civil"}}, "texts.a-b", "needs a name of letters"),
        ({"texts": {"w": "toxic/civil"}}, "texts.w", "an operand cannot have this name"),
        ({"texts": {"base": "toxic/civil"}}, "texts.base", "an operand cannot have this name"),
        (
            {"texts": {**UNLEARNING["texts"], "more": "toxic/olid"}},
            "texts.more",
            "no curve uses it",
        ),
        ({"rows": {"train": 0}}, "rows.train", "greater than or equal to 1"),
        ({"rows": {"validation": 3}}, "rows.validation", "there is no key"),
        ({"prompts": {"neutral": 33}}, "prompts.neutral", "less than or equal to 32"),
        ({"prompts": {"validation": 0}}, "prompts.validation", "greater than or equal to 1"),
        ({"prompts": {"paper": 1.5}}, "prompts.paper", "valid integer"),
        ({"writing": {"temperature": -1}}, "writing.temperature", "greater than or equal to 0"),
        ({"writing": {"top_p": 0}}, "writing.top_p", "greater than 0"),
        ({"writing": {"beams": 0}}, "writing.beams", "greater than or equal to 1"),
        ({"writing": {"repetition_penalty": 0.5}}, "writing.repetition_penalty", "equal to 1"),
        ({"writing": {"new_token": 3}}, "writing.new_token", "did you mean `new_tokens`"),
        ({"clean": {"test": "wikitext"}}, "clean.test", "there is no corpus `wikitext`"),
        ({"clean": {"stride": 1024}}, "clean.stride", "must be smaller than the window"),
        ({"clean": {"window": 1}}, "clean.window", "greater than or equal to 2"),
        ({"scorer": "profane"}, "scorer", "did you mean `profanity`"),
        ({"choice": {"budget": -0.1}}, "choice.budget", "greater than or equal to 0"),
    ],
)
def test_mistakes_in_unlearning(sections, place, message):
    found = mistakes(UNLEARNING, **sections)
    assert message in found[place], found


def test_an_operand_that_only_an_untrained_kind_takes_is_used():
    """Every operand is looked for in the curves of all kinds that are trained."""
    some = {"expression": "-w*unshared(toxic, useful)", "modules": ["ia3"]}
    modules = {**LORA, "ia3": {}}
    parse_recipe(UNLEARNING | {"modules": modules, "curves": {"n": "-w*toxic", "p": some}})
    found = mistakes(UNLEARNING, curves={"n": "-w*toxic"})
    assert found == {"texts.useful": "no curve uses it"}


@pytest.mark.parametrize(
    ("sections", "place", "message"),
    [
        (
            {"texts": {"instruct": "instruct/alpace"}},
            "texts.instruct",
            "did you mean `instruct/alpaca`",
        ),
        ({"texts": {"toxic": "instruct/alpaca"}}, "texts.toxic", "there is no corpus"),
        ({"texts": {"useful": "clean/olid"}}, "texts.useful", "there is no key"),
        ({"rows": {"toxic": 0}}, "rows.toxic", "greater than or equal to 1"),
        ({"toxic_starts_from": "base"}, "toxic_starts_from", "'instruct' or 'initialisation'"),
        ({"asked": {"toxic": "toxic/civil"}}, "asked.toxic", "there is no set of instructions"),
        ({"asked": {"references": 0}}, "asked.references", "greater than or equal to 1"),
        ({"asked": {"checks": 1}}, "asked.checks", "valid boolean"),
        ({"scorer": "vaderr"}, "scorer", "did you mean `vader`"),
        ({"judge": "gpt"}, "judge", "none is installed"),
    ],
)
def test_mistakes_in_detoxifying(sections, place, message):
    found = mistakes(DETOX, **sections)
    assert message in found[place], found
    assert len(found) == 1


OWN = {"text": ["text"], "label": "label", "labels": ["bad", "good"], "train": "train.csv"}
PROMPTED = {"prompt": "{0} Good?", "words": [" no", " yes"]}


@pytest.mark.parametrize(
    ("tasks", "place", "message"),
    [
        (["packages/movies"], "tasks", "at least 2"),
        (["packages/movies"] * 3, "tasks", "at most 2"),
        (["packages/movies"] * 2, "tasks", "`packages/movies` is there twice"),
        (["packages/movies", "packages/amazn"], "tasks[1]", "did you mean `packages/amazon`"),
        (
            ["packages/movies", "packages/spam"],
            "tasks",
            "the same labels, found negative, positive",
        ),
        (["glue/stsb", "packages/movies"], "tasks[0]", "`glue/stsb` has no `prompt`"),
        ([OWN | PROMPTED | {"name": "x"}, OWN | {"name": "y"}], "tasks[1]", "`y` has no `prompt`"),
        ([OWN | PROMPTED | {"name": "x/y"}, OWN | PROMPTED | {"name": "x__y"}], "tasks", "twice"),
        ([OWN | PROMPTED | {"name": "x"}, "packages/movies"], "tasks", "found bad, good and"),
    ],
)
def test_mistakes_in_the_domains_of_a_transfer(tasks, place, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").write_text("text,label\ngood,good\n", encoding="utf-8")
    found = mistakes(TRANSFER, tasks=tasks)
    assert list(found) == [place], found
    assert message in found[place]


def test_domains_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").write_text("text,label\ngood,good\n", encoding="utf-8")
    tasks = [OWN | PROMPTED | {"name": name} for name in ("films", "books")]
    assert parse_recipe(TRANSFER | {"tasks": tasks}).task_names() == ["films", "books"]


@pytest.mark.parametrize(
    ("sections", "place"),
    [({"rows": {"few": 0}}, "rows.few"), ({"rows": {"texts": "all"}}, "rows.texts"),
     ({"scorer": "vader"}, "scorer"), ({"writing": {}}, "writing")],
)  # fmt: skip
def test_mistakes_in_the_rest_of_a_transfer(sections, place):
    assert list(mistakes(TRANSFER, **sections)) == [place]


def test_mistakes_between_sections_are_said_beside_those_within():
    found = mistakes(
        UNLEARNING,
        seeds=[],
        model={"name": "pip:mpnet"},
        curves={"x": "w*nobody", "toxic": "-w*toxic"},
        clean={"stride": 2000},
        scorer="none",
    )
    assert found.keys() == {
        "seeds",
        "model.name",
        "curves.x",
        "curves.toxic",
        "clean.stride",
        "scorer",
    }


def test_the_paper_presets_are_the_papers():
    unlearning = preset_recipe("unlearning", "paper")
    assert unlearning.model.name == "openai-community/gpt2-large"
    assert unlearning.texts == {"toxic": "hub/civil"}
    assert (unlearning.clean.test, unlearning.clean.window) == ("hub/wikitext103", 1024)
    assert unlearning.scorer == "detoxify"
    assert unlearning.prompts.paper == 1000
    assert (unlearning.modules.ia3.learning_rate, unlearning.modules.ia3.epochs) == (5e-3, 10)
    assert (unlearning.modules.full.learning_rate, unlearning.modules.full.epochs) == (1e-5, 5)
    transfer = preset_recipe("transfer", "paper")
    assert transfer.model.name == "google-t5/t5-base"
    assert transfer.task_names() == ["hub/amazon_polarity", "hub/yelp_polarity"]
    assert transfer.weights == [0.84, 0.86, 0.88, 0.9, 0.92, 0.94, 1]
    rates = {pem: one.learning_rate for pem, one in transfer.modules.chosen().items()}
    assert rates == {"lora": 5e-4, "ia3": 2e-3, "full": 5e-5}
    detox = preset_recipe("detox", "paper")
    assert detox.model.name == "huggyllama/llama-7b"
    assert (detox.modules.lora.rank, detox.modules.lora.alpha) == (16, 16)
    assert detox.modules.lora.target_modules == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert detox.weights == [0.3, 0.4, 0.5]
    assert detox.writing.decoding() == Decoding(
        new_tokens=128, temperature=0, beams=4, repetition_penalty=2.5
    )
    assert detox.toxic_starts_from == "instruct"
    assert detox.scorer == "detoxify-original"
