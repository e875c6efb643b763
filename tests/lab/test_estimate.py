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
from pemath.lab.checks import CHECKS
from pemath.lab.data.corpora import CORPORA, Corpus, load_corpus
from pemath.lab.data.instructions import INSTRUCTIONS, Instructions, load_instructions
from pemath.lab.data.rows import Row, TaskData
from pemath.lab.data.tasks import TASKS, load_task
from pemath.lab.desk import Answered, _used
from pemath.lab.estimate.estimate import estimate
from pemath.lab.estimate.kind import Running
from pemath.lab.estimate.model_sizes import MODEL_SIZES, size_of
from pemath.lab.estimate.sizes import CORPUS_SIZES, INSTRUCTION_SIZES, TASK_SIZES
from pemath.lab.execute import cells_of, run_cell
from pemath.lab.experiments import detox, distribution, multitask, transfer, unlearning
from pemath.lab.experiments.cells import Laboratory
from pemath.lab.likelihood import Likelihood, Reading
from pemath.lab.quiz import Quiz
from pemath.lab.recipes.reading import EXPERIMENTS, PRESETS, parse_recipe, preset_recipe
from pemath.lab.recipes.recipe import Recipe
from pemath.lab.sampling import Sampling
from pemath.lab.setting import Module, digest_of

TRAIN, VALIDATION, TEST = 20, 6, 10
WINDOWS = 3  # of 100 tokens, at a time 64 of them, by 32
MERGES = ("distribution", "multitask")
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

    def data(self, name, given):
        def rows(part, count):
            return tuple(Row((f"{name} {part} {i}",), i % 2) for i in range(count))

        task = TASKS[name]
        parts = rows("train", 2 * TRAIN), rows("validation", VALIDATION), rows("test", TEST)
        return TaskData(task, *parts, "digest")

    def trials(self):
        done = self.done
        # Models with a head have one start for each; a prompt changes nothing about the start.
        has_head = self.recipe.experiment == "distribution"
        merged = self.recipe.experiment in MERGES

        class Trials:
            store = None

            def module(self, setting, pem, settings, training, rows, *, seed, start):
                steps = training.max_steps or round(
                    training.epochs * -(-len(rows) // training.batch_size)
                )
                begun = start.digest if isinstance(start, Module) else start
                about = (setting.task, training, digest_of(rows), seed, begun, pem)
                key = digest_of([Row((repr(about),), 0)])
                done["train", pem][key] = steps
                if not isinstance(start, Module):
                    done["starts", pem][setting.task.name if has_head else "", start] = 0
                return Module(Path(key), pem, {"steps": steps})

            def statistics(self, setting, module, rows, *, gram_rows, fisher_rows, batch_size):
                done["gram", module.pem][module.digest] = min(gram_rows, len(rows))
                done["fisher", module.pem][module.digest] = min(fisher_rows, len(rows))
                return Path()

            @contextmanager
            def asking(self, modules, questions, *, batch_size, statistics=None):
                def ask(expression, name):
                    used = [(n, modules[n].folder) for n in _used(expression, modules)]
                    question, pem = questions[name], next(iter(modules.values())).pem
                    work, answers = answered(question)
                    done["composed", pem][repr((expression, used))] = 0
                    # A merge's measures are summed over its tasks.
                    about = name.rsplit(" ", 1)[-1] if merged else name
                    key = repr((expression, used, question.key()))
                    done[work if name else "choose", pem, about][key] = len(answers)
                    return Answered(answers, None, {}, 0.0)

                yield ask

        return Trials()


def answered(question):
    """The sort of work that a question is, and answers of the right form and number."""
    match question:
        case Quiz():
            return "evaluate", [0] * len(question.rows)
        case Sampling():
            return "write", ["a text"] * (len(question.prompts) * question.samples)
        case Likelihood():
            return "read", [(1.0, 2)] * len(question.rows)
        case Reading():
            return "read", [(1.0, 2)] * WINDOWS


class Scorer:
    name = title = version = "none"

    def score(self, texts):
        return [0.5] * len(texts)


def many(name, data_dir):
    """As many texts as no recipe here wants."""
    return Corpus(name, "", tuple(f"{name} {i}" for i in range(99)), "digest")


def many_instructions(name, data_dir):
    rows = tuple(Row((f"{name} {i}", f"reply {i}"), 0) for i in range(399))
    return Instructions(name, "", rows, "digest")


def carried_out(wanted, monkeypatch):
    """How often each sort of work is done by the experiment itself."""
    for experiment in (distribution, multitask):
        monkeypatch.setattr(experiment, "interference", lambda *pair, **facts: [])
    for experiment in (detox, unlearning):
        monkeypatch.setattr(experiment, "load_corpus", many)
        monkeypatch.setattr(experiment, "judged_scorer", lambda lab, name: (Scorer(), {}))
    monkeypatch.setattr(detox, "load_instructions", many_instructions)
    monkeypatch.setattr(unlearning, "provoking", lambda: tuple(f"opening {i}" for i in range(99)))
    monkeypatch.setattr(transfer, "family_of", lambda name: "causal")
    monkeypatch.setattr(transfer, "_inflation", lambda modules: lambda expression: {})
    lab = Counting(wanted, Path("store"))
    cells = cells_of(lab)
    for cell in cells:
        run_cell(lab, cell)
    return len(cells), lab.done


@pytest.mark.parametrize("experiment", MERGES)
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
        assert times("choose") == len(done["choose", pem, ""])
        for part in ("test", "validation"):
            assert times("evaluate", part) == len(done["evaluate", pem, part]), part
        for work in ("gram", "fisher"):
            assert times(work) == len(done[work, pem])
            assert {n.rows for n in mine if n.work == work} == set(done[work, pem].values())
        kept = next(kept for kept in found.kept if kept.pem == pem)
        assert kept.modules == len(done["train", pem])
        assert kept.starts == (0 if pem == "full" else len(done["starts", pem]))
        assert kept.statistics == len(done["gram", pem])


MODULES = {
    "lora": {"target_modules": ["q_proj", "v_proj"], "batch_size": 8},
    "ia3": {"max_steps": 5},
    "full": {"epochs": 3},
}
FOLLOWED = {
    "unlearning": {
        "texts": {"toxic": "toxic/civil", "other": "toxic/olid", "useful": "clean/olid"},
        "rows": {"train": TRAIN},
        "curves": {
            "negation": "-w*toxic",
            "projected": {"expression": "-w*unshared(toxic, useful)", "modules": ["lora", "ia3"]},
            "consensus": {"expression": "-w*negmerge(toxic, other)", "modules": ["lora"]},
        },
        "prompts": {
            "paper": 5,
            "neutral": 3,
            "samples": 2,
            "validation": 4,
            "validation_samples": 1,
        },
        "clean": {"tokens": 100, "window": 64, "stride": 32},
    },
    "detox": {
        "rows": {"train": TRAIN, "toxic": 2 * TRAIN},
        "curves": {"exact": "(1+w)*instruct - w*toxic", "less": "instruct - w*toxic"},
        "asked": {"test": 4, "validation": 3, "references": 6},
    },
    "transfer": {
        "tasks": ["packages/movies", "packages/amazon"],
        "rows": {"train": TRAIN, "texts": TRAIN, "validation": VALIDATION, "test": TEST, "few": 4},
        "curves": {
            "analogy": "w*source + (1-w)*(target_lm - source_lm)",
            "paper": {
                "expression": "paper(source, target_lm, source_lm, weights=[w, 1-w, w-1])",
                "modules": ["lora"],
            },
        },
    },
}


def followed(experiment, **sections):
    content = {
        "experiment": experiment,
        "model": {"name": "pip:smollm2", "max_length": 32},
        "modules": MODULES,
        "weights": [0.25, 0.5, 0.75],
        "seeds": [1, 2],
        **FOLLOWED[experiment],
    }
    return parse_recipe({**content, **sections})


@pytest.mark.parametrize(
    ("experiment", "sections"),
    [
        ("unlearning", {}),
        ("unlearning", {"texts": {"toxic": "toxic/civil"}, "curves": {"negation": "-w*toxic"}}),
        (
            "unlearning",
            {"prompts": {"paper": 5, "neutral": 3, "provoking": 6, "samples": 2, "validation": 4}},
        ),
        ("detox", {}),
        (
            "detox",
            {
                "toxic_starts_from": "initialisation",
                "asked": {"test": 5, "validation": 2, "references": 3, "checks": False},
            },
        ),
        ("transfer", {}),
        ("transfer", {"curves": {"analogy": "w*source + (1-w)*target_lm"}}),
    ],
)
def test_it_counts_what_following_curves_does(experiment, sections, monkeypatch):
    wanted = followed(experiment, **sections)
    found = estimate(wanted)
    count, done = carried_out(wanted, monkeypatch)
    assert found.cells == count
    for pem in wanted.modules.chosen():
        mine = [line for line in found.lines if line.pem == pem]
        training = [line for line in mine if line.work == "train"]
        assert sum(line.times for line in training) == len(done["train", pem])
        assert sum(line.steps for line in training) == sum(done["train", pem].values())
        # By measure and part: how many compositions are asked, about how many rows.
        expected = {
            (work, about): (len(asked), set(asked.values()))
            for (work, of, *more), asked in done.items()
            for about in more
            if of == pem
        }
        asked = [line for line in mine if line.work != "train"]
        assert {(n.work, f"{n.task} {n.part}"): (n.times, {n.rows}) for n in asked} == expected
        kept = next(kept for kept in found.kept if kept.pem == pem)
        assert kept.modules == len(done["train", pem])
        assert kept.starts == (0 if pem == "full" else len(done["starts", pem]))
        assert kept.compositions == len(done["composed", pem])


def test_texts_that_are_written_and_read_by_hand():
    size = MODEL_SIZES["pip:smollm2"]
    wanted = followed(
        "unlearning",
        modules={"lora": {}},
        curves={"one": "-w*toxic", "other": "w*toxic", "more": "toxic - w*toxic"},
        texts={"toxic": "toxic/civil"},
        writing={"new_tokens": 12},
        seeds=[1],
    )
    wanted = wanted.changed(
        evaluation={"batch_size": 4}, model={"name": "pip:smollm2", "max_length": 64}
    )
    lines = {(line.work, line.task, line.part): line for line in estimate(wanted).lines}
    training = lines["train", "toxic/civil", "toxic"]
    assert (training.rows, training.steps, training.tokens) == (20, 2, 2 * 16 * 64)
    assert training.likely == 2 * 16 * (CORPUS_SIZES["toxic/civil"].tokens + 1)
    # Forwards and backwards, through the map to the vocabulary too.
    assert training.operations == training.tokens * 4 * (size.working + 49_152 * 576)
    written = lines["write", "toxicity/paper", "test"]
    times = 2 + 3 * 3
    assert (written.times, written.rows) == (times, 5)
    assert written.steps == times * 2 * 12  # two batches, a token of each text at a time
    assert written.likely == times * 5 * (9 + 12)
    assert written.likely_operations == times * 5 * 2 * (9 * size.working + 12 * size.writing)
    read = lines["read", "perplexity/clean", "test"]
    assert (read.rows, read.tokens) == (3, times * (64 + 64 + 36))
    assert read.operations == times * 2 * (164 * size.working + 100 * 49_152 * 576)


def test_a_model_with_two_sides_reads_with_one_and_writes_with_the_other():
    size = MODEL_SIZES["google-t5/t5-base"]
    wanted = followed(
        "transfer",
        model={"name": "t5-base", "max_length": 64},
        modules={
            "ia3": {"target_modules": ["k", "v", "wi"], "feedforward_modules": [], "max_steps": 1}
        },
        curves={"analogy": "w*source + target_lm"},
        seeds=[1],
    )
    line = next(line for line in estimate(wanted).lines if line.part == "language model")
    half = TASK_SIZES["packages/movies"].tokens // 2
    more = TASK_SIZES["packages/movies"].tokens - half
    assert line.likely == 16 * (half + more)
    assert line.likely_operations == 16 * 4 * (half * size.working + more * size.writing)


def test_more_beams_write_more():
    one, four = (
        estimate(followed("detox", writing={"temperature": 0, "beams": beams})) for beams in (1, 4)
    )
    for a, b in zip(one.lines, four.lines, strict=True):
        assert b.operations == a.operations * (4 if a.work == "write" else 1)


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
    found = estimate(preset_recipe(experiment, name))
    shown = found.as_dict()
    assert None not in shown["total"].values()
    assert shown["total"]["core_hours"] <= shown["total"]["core_hours_at_most"]
    show_estimate(found, as_json=True)
    assert json.loads(capsys.readouterr().out) == shown
    show_estimate(found, as_json=False)
    out = capsys.readouterr().out
    assert "unknown" not in out
    if name == "paper" and experiment in MERGES:
        assert "all, 9,815" in out  # MNLI's matched development set


def test_smoke_takes_minutes_and_cpu_hours():
    for experiment in EXPERIMENTS:
        core, _ = estimate(preset_recipe(experiment, "smoke")).hours(likely=True)
        assert core < 0.1
        core, _ = estimate(preset_recipe(experiment, "cpu")).hours(likely=True)
        assert 0.2 < core < 6


def test_no_torch_is_loaded():
    code = (
        "import sys; from pemath.lab.recipes.reading import preset_recipe; from pemath.lab.estimate.estimate import estimate;"
        "estimate(preset_recipe('distribution', 'paper')).as_dict();"
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
        ("gpt2-large", "lora", ["c_attn"], 1_474_560),
        ("huggyllama/llama-7b", "lora", ["q_proj", "k_proj", "v_proj", "o_proj"], 16_777_216 // 2),
    ],
)
def test_the_size_of_a_module(model, pem, targets, parameters):
    inner = None if targets is None else []
    assert size_of(model).adapter(targets, pem, 8, inner) == parameters


def test_heads_and_whole_models():
    assert size_of("pip:minilm").parameters + size_of("pip:minilm").head_parameters(2) == 22_713_986
    assert size_of("FacebookAI/roberta-base").head_parameters(2) == 592_130
    assert size_of("google-t5/t5-base").head_parameters(2) == 0


def test_published_sizes():
    for name, parameters in (
        ("openai-community/gpt2-large", 774_030_080),
        ("huggyllama/llama-7b", 6_738_415_616),
    ):
        size = MODEL_SIZES[name]
        working = sum(i * o * count for i, o, count in size.linears.values())
        assert (size.parameters, size.working) == (parameters, working)
        assert size.working < size.writing < size.parameters


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
        assert measured.writing == pytest.approx(known.writing, rel=1e-3)


def test_the_folder_of_a_model_with_two_sides(tmp_path):
    pytest.importorskip("torch")
    from .tiny_models import save_model

    found = size_of(str(save_model("seq2seq", tmp_path / "t5")))
    inner, feed = 16 * 16, 2 * 16 * 24
    assert found.two_sided
    # Two layers: four maps and a feed-forward, and keys and values of what was read.
    assert found.working == pytest.approx(2 * (4 * inner + feed + 2 * inner), rel=0.05)
    assert found.writing == pytest.approx(2 * (6 * inner + feed) + 22 * 16, rel=0.05)


def test_windows_are_those_that_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    from pemath.lab.models import load_model
    from pemath.lab.perplexity import windows

    from .tiny_models import WORDS, save_model

    base = load_model(str(save_model("causal", tmp_path / "m")))
    text = " ".join(WORDS * 3)
    for tokens, window, stride in (
        (40, 16, 8),
        (40, 64, 32),
        (41, 20, 7),
        (16, 16, 8),
        (17, 16, 8),
    ):
        found = windows(base, base.model, text, window=window, stride=stride, tokens=tokens)
        running = Running("", "", tokens, window, stride)
        assert len(running.windows()) == len(found), (tokens, window, stride)
        assert sum(count for _, count in found) == tokens - 1
    assert torch.is_inference_mode_enabled() is False


def test_every_name_has_a_size():
    assert CORPUS_SIZES.keys() == CORPORA.keys()
    assert INSTRUCTION_SIZES.keys() == INSTRUCTIONS.keys()
    assert TASK_SIZES.keys() == TASKS.keys()


def test_the_known_sizes_are_those_of_the_data(shared_data):
    for name, size in CORPUS_SIZES.items():
        if not name.startswith("hub/"):
            corpus = load_corpus(name, shared_data)
            assert len(corpus.texts) == size.texts, name
            assert corpus.running == (size.running is not None), name
    for name, size in INSTRUCTION_SIZES.items():
        assert len(load_instructions(name, shared_data).rows) == size.rows, name
    for name, size in TASK_SIZES.items():
        if name.startswith("reviews/"):
            data = load_task(name, data_dir=shared_data)
            assert (len(data.train), len(data.test)) == (size.train, size.test), name


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


def test_what_is_all_of_a_corpus_is_said(capsys):
    wanted = followed("unlearning", rows={"train": None})
    found = estimate(wanted)
    rows = {one.task: one for one in found.rows}
    assert (rows["toxic/civil"].train, rows["toxic/civil"].all_of) == (1_632, ("train",))
    assert (rows["toxicity/neutral"].validation, rows["toxicity/neutral"].test) == (4, 6)
    show_estimate(found, as_json=False)
    assert "all, 1,632" in capsys.readouterr().out


def test_texts_of_ones_own_cost_what_the_recipe_says(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("a text of three words\n")
    own = {"toxic": str(path), "useful": "clean/olid"}
    curves = {"negation": "-w*toxic", "less": "-w*unshared(toxic, useful)"}
    clean = {"test": str(path), "validation": "wikitext/test"}
    found = estimate(followed("unlearning", texts=own, curves=curves, clean=clean))
    assert {one.task: one.train for one in found.rows}["mine.txt"] == TRAIN
    found = estimate(followed("detox", texts={"toxic": str(path)}, rows={"train": 8, "toxic": 9}))
    assert {one.task: one.train for one in found.rows}["mine.txt"] == 9


def test_references_are_held_out_of_the_instructions():
    wanted = followed("detox", rows={"train": None, "toxic": None}, asked={"references": 60})
    training = [line for line in estimate(wanted).lines if line.work == "train"]
    assert {line.rows for line in training} == {985 - 2 * 60, 1_632}
    checks = [line for line in estimate(wanted).lines if line.task == "checks"]
    assert {line.rows for line in checks} == {len(CHECKS)}
