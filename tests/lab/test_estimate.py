"""Estimates: they count what the experiments do, and they say what they cannot know."""

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pemath.cli._estimate import show_estimate
from pemath.lab.data.rows import Row, TaskData
from pemath.lab.data.tasks import TASKS
from pemath.lab.estimate.estimate import estimate
from pemath.lab.estimate.sizes import MODEL_SIZES, TASK_SIZES, size_of
from pemath.lab.execute import cells_of, run_cell
from pemath.lab.experiments import distribution, multitask
from pemath.lab.experiments.cells import Laboratory
from pemath.lab.recipes.recipe import EXPERIMENTS, PRESETS, Recipe
from pemath.lab.trials import Answered, Module, _used, digest_of

TRAIN, VALIDATION, TEST = 20, 6, 10
SWEEP = {"expression": "(1-t)*a + t*b", "weights": {"t": "0.1:0.9:0.2"}}
GRID = {"learning_rate": [1e-3, 1e-4], "max_steps": [6, 3]}
PLAIN = {"some": "0.35*a + 0.35*b", "paper": "paper(a, b, weights=[0.5, 0.5])"}
MEASURED = {"regmean": "regmean(a, b)"}


def recipe(experiment="distribution", **sections):
    split = experiment == "distribution"
    content = {
        "experiment": experiment,
        "model": {"name": "pip:minilm" if split else "pip:smollm2", "max_length": 32},
        "tasks": ["packages/movies", "packages/spam"],
        "rows": {"train": TRAIN, "validation": VALIDATION, "test": TEST},
        "modules": {"lora": {"target_modules": ["query", "value"]}, "full": {"max_steps": 7}},
        "compositions": PLAIN,
        "seeds": [1, 2, 3],
    }
    return Recipe.parse({**content, **sections})


class Table(dict):
    def __missing__(self, key):
        self[key] = {}
        return self[key]


@dataclass(frozen=True)
class Counting(Laboratory):
    """A laboratory without models, which notes what it is asked to do; each thing once, as the
    store does.
    """

    done: Table = field(default_factory=Table)

    def data(self, position):
        def rows(part, count):
            return tuple(Row((f"{position} {part} {i}",), i % 2) for i in range(count))

        task = TASKS[self.recipe.task_names()[position]]
        parts = rows("train", 2 * TRAIN), rows("validation", VALIDATION), rows("test", TEST)
        return TaskData(task, *parts, "digest")

    def trials(self):
        done = self.done
        # Models with a head have one start for each; a prompt changes nothing about the start.
        has_head = self.recipe.experiment == "distribution"

        class Trials:
            store = None

            def module(self, setting, pem, settings, training, rows, *, seed, start_seed):
                steps = training.max_steps or round(
                    training.epochs * -(-len(rows) // training.batch_size)
                )
                key = repr((setting.task.name, training, digest_of(rows), seed, start_seed, pem))
                done["train", pem][key] = steps
                done["starts", pem][setting.task.name if has_head else "", start_seed] = 0
                return Module(Path(key), pem, {"steps": steps})

            def statistics(self, setting, module, rows, *, gram_rows, fisher_rows, batch_size):
                done["gram", module.pem][module.digest] = min(gram_rows, len(rows))
                done["fisher", module.pem][module.digest] = min(fisher_rows, len(rows))
                return Path()

            @contextmanager
            def asking(self, modules, quizzes, *, batch_size, statistics=None):
                def ask(expression, quiz):
                    used = [(n, modules[n].folder) for n in _used(expression, modules)]
                    rows = quizzes[quiz].rows
                    pem = next(iter(modules.values())).pem
                    part = "test" if len(rows) == TEST else "validation"
                    work = "evaluate" if quiz else "choose"
                    key = repr((expression, used, digest_of(rows)))
                    done[work, pem, part][key] = len(rows)
                    return Answered([0] * len(rows), None, {}, 0.0)

                yield ask

        return Trials()


def carried_out(wanted, monkeypatch):
    """How often each sort of work is done by the experiment itself."""
    for experiment in (distribution, multitask):
        monkeypatch.setattr(experiment, "interference", lambda *pair, **facts: [])
    lab = Counting(wanted, Path("store"))
    cells = cells_of(lab)
    for cell in cells:
        run_cell(lab, cell)
    return len(cells), lab.done


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"initialisation": ["shared", "independent"]},
        {"sweep": SWEEP},
        {"compositions": PLAIN | MEASURED, "evaluation": {"gram_rows": 15, "fisher_rows": 50}},
        {
            "initialisation": ["shared", "independent"],
            "compositions": PLAIN | MEASURED,
            "sweep": SWEEP,
            "modules": {"lora": {"grid": GRID}, "ia3": {"epochs": 3}, "full": {"grid": GRID}},
        },
    ],
    ids=["plain", "independent", "sweep", "statistics", "everything"],
)
def test_it_counts_what_the_experiment_does(experiment, sections, monkeypatch):
    wanted = recipe(experiment, **sections)
    found = estimate(wanted)
    count, done = carried_out(wanted, monkeypatch)
    assert found.cells == count
    for pem in wanted.modules.chosen():
        mine = [line for line in found.lines if line.pem == pem]

        def times(work, part=None, mine=mine):
            return sum(n.times for n in mine if n.work == work and part in (None, n.part))

        assert times("train") == len(done["train", pem])
        steps = sum(line.steps for line in mine if line.work == "train")
        assert steps == sum(done["train", pem].values())
        assert times("choose") == len(done["choose", pem, "validation"])
        for part in ("test", "validation"):
            assert times("evaluate", part) == len(done["evaluate", pem, part]), part
        for work in ("gram", "fisher"):
            assert times(work) == len(done[work, pem])
            assert {n.rows for n in mine if n.work == work} == set(done[work, pem].values())
        kept = next(kept for kept in found.kept if kept.pem == pem)
        assert kept.modules == len(done["train", pem])
        assert kept.starts == (0 if pem == "full" else len(done["starts", pem]))
        assert kept.statistics == len(done["gram", pem])


def test_the_arithmetic_by_hand():
    wanted = recipe(
        tasks=["packages/movies"], modules={"lora": {"epochs": 2, "batch_size": 8}}, seeds=[1]
    )
    found, working = estimate(wanted), MODEL_SIZES["pip:minilm"].working
    training = [line for line in found.lines if line.work == "train"]
    assert [(n.part, n.rows, n.steps) for n in training] == [
        ("a", 20, 6),
        ("b", 20, 6),
        ("all", 40, 6),  # for as many steps as a half
    ]
    assert training[0].tokens == 6 * 8 * 32
    assert training[0].likely == 6 * 8 * TASK_SIZES["packages/movies"].tokens
    assert training[0].operations == training[0].tokens * 4 * working
    (asked,) = (line for line in found.lines if line.work == "evaluate")
    assert (asked.part, asked.times, asked.tokens) == ("test", 2 + 2 + 1, 5 * TEST * 32)
    assert asked.operations == asked.tokens * 2 * working
    full = estimate(wanted.changed(modules={"full": {"max_steps": 6, "batch_size": 8}}))
    assert full.lines[0].operations == training[0].tokens * 6 * working
    core, gpu = found.hours(likely=True)
    most, _ = found.hours(likely=False)
    assert 0 < gpu < core < most < 0.1


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_presets_are_estimated_whole(experiment, name, capsys):
    found = estimate(Recipe.preset(experiment, name))
    shown = found.as_dict()
    assert None not in shown["total"].values()
    assert shown["total"]["core_hours"] <= shown["total"]["core_hours_at_most"]
    show_estimate(found, as_json=True)
    assert json.loads(capsys.readouterr().out) == shown
    show_estimate(found, as_json=False)
    out = capsys.readouterr().out
    assert "unknown" not in out
    if name == "paper":
        assert "all, 9,815" in out  # MNLI's matched development set


def test_smoke_takes_minutes_and_cpu_hours():
    for experiment in EXPERIMENTS:
        core, _ = estimate(Recipe.preset(experiment, "smoke")).hours(likely=True)
        assert core < 0.1
        core, _ = estimate(Recipe.preset(experiment, "cpu")).hours(likely=True)
        assert 0.2 < core < 6


def test_no_torch_is_loaded():
    code = (
        "import sys; from pemath.lab.recipes.recipe import Recipe; from pemath.lab.estimate.estimate import estimate;"
        "estimate(Recipe.preset('distribution', 'paper')).as_dict();"
        "sys.exit(str({'torch', 'transformers', 'peft', 'datasets', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"


@pytest.mark.parametrize(
    ("model", "pem", "targets", "parameters"),
    [
        # Published, or counted in a module that PEFT made; heads left out.
        ("FacebookAI/roberta-base", "lora", ["query", "value"], 294_912),
        ("FacebookAI/roberta-base", "ia3", ["key", "value", "intermediate.dense"], 55_296),
        ("google-t5/t5-base", "lora", ["q", "v"], 884_736),
        ("t5-base", "ia3", ["k", "v", "wi"], 129_024),
        ("pip:minilm", "lora", None, 73_728),
        ("pip:minilm", "ia3", ["key", "value", "intermediate.dense"], 13_824),
        ("pip:smollm2", "lora", ["q_proj", "v_proj"], 460_800),
        ("pip:mpnet", "lora", None, None),  # PEFT has no choice of its own
    ],
)
def test_the_size_of_a_module(model, pem, targets, parameters):
    inner = None if targets is None else []
    assert size_of(model).adapter(targets, pem, 8, inner) == parameters


def test_heads_and_whole_models():
    assert size_of("pip:minilm").parameters + size_of("pip:minilm").head_parameters(2) == 22_713_986
    assert size_of("FacebookAI/roberta-base").head_parameters(2) == 592_130
    assert size_of("google-t5/t5-base").head_parameters(2) == 0


def folder_of(path, tensors, **config):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    arrays = {name: np.zeros(shape, np.float32) for name, shape in tensors.items()}
    save_file(arrays, path / "model.safetensors")
    return path


def test_a_model_in_a_folder(tmp_path):
    tensors = {
        "embeddings.word_embeddings.weight": (100, 8),
        "encoder.layer.0.attention.self.query.weight": (8, 8),
        "encoder.layer.0.attention.self.query.bias": (8,),
        "encoder.layer.0.attention.self.value.weight": (8, 8),
        "encoder.layer.0.output.dense.weight": (8, 32),
        "pooler.dense.weight": (8, 8),
    }
    found = size_of(str(folder_of(tmp_path / "m", tensors, model_type="bert", hidden_size=8)))
    assert (found.parameters, found.working) == (800 + 64 + 8 + 64 + 256 + 64, 64 + 64 + 256)
    assert found.adapter(None, "lora", 2, None) == 2 * 2 * (8 + 8)
    assert found.adapter(["output.dense"], "ia3", 1, ["output.dense"]) == 32
    assert found.head_parameters(3) == 27
    shown = estimate(recipe(model={"name": str(tmp_path / "m")})).as_dict()
    assert shown["total"]["core_hours"] > 0


def test_a_folder_that_is_no_model(tmp_path):
    assert size_of(str(tmp_path)) is None
    weight = {"encoder.weight": (2, 2)}
    for number, config in enumerate(({"hidden_size": []}, {"model_type": ["bert"]})):
        assert size_of(str(folder_of(tmp_path / str(number), weight, **config))) is None
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    assert size_of(str(tmp_path)) is None
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 9)
    assert size_of(str(tmp_path)) is None


def test_the_known_sizes_are_those_of_the_files():
    from pemath.lab.assets import located

    for name in ("pip:minilm", "pip:mpnet", "pip:smollm2"):
        folder = located(name)
        if folder is None:
            continue
        known, measured = MODEL_SIZES[name], size_of(str(folder))
        assert measured.parameters == pytest.approx(known.parameters, rel=1e-4)
        assert measured.working == pytest.approx(known.working, rel=1e-3)
        assert measured.head == known.head


def test_a_model_of_unknown_size(capsys):
    found = estimate(recipe(model={"name": "someone/some-bert"}))
    assert found.hours(likely=True) == (None, None)
    assert found.total("tokens") > 0
    assert found.total("operations") is found.bytes is None
    show_estimate(found, as_json=False)
    assert "the size of `someone/some-bert` is not known here" in capsys.readouterr().out


def test_own_rows_are_counted_only_where_the_recipe_says(tmp_path, capsys):
    (tmp_path / "train.csv").write_text("text,label\ngood,1\n", encoding="utf-8")
    own = {"name": "mine", "train": tmp_path / "train.csv", "text": ["text"], "label": "label"}
    wanted = recipe(tasks=[own], rows={"validation": 5})
    found = estimate(wanted)
    by_part = {(n.pem, n.work, n.part): n for n in found.lines}
    assert by_part["lora", "train", "a"].steps is None
    assert by_part["full", "train", "a"].steps == 3 * 7  # max_steps, three seeds
    assert found.hours(likely=True) == (None, None)
    show_estimate(found, as_json=False)
    out = capsys.readouterr().out
    assert "counted only where the recipe says" in out
    assert "all are counted with max_length" in out
    capped = wanted.changed(rows={"train": 20, "validation": 5, "test": 10})
    assert estimate(capped).hours(likely=True)[0] > 0


def test_all_rows_are_the_official_ones():
    wanted = recipe(tasks=["glue/mnli"], rows={"validation": 400}, modules={"lora": {}}, seeds=[1])
    (rows,) = estimate(wanted).rows
    assert (rows.train, rows.test) == ((392_702 - 400) // 2, 9_815)
    assert rows.all_of == ("train", "test")
