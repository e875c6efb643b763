"""An adapter merged into its base checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pemath.composition.heads import HeadPlan
from pemath.conversion._beside import Beside, changes_of
from pemath.conversion._deltas import Delta, opened
from pemath.conversion._registry import Outcome, target
from pemath.conversion._selection import is_embedding
from pemath.conversion._source import Source
from pemath.conversion._streaming import certified, write_delta
from pemath.errors import KindMismatch, LayoutError, RequestError, ShapeMismatch, UnsupportedFeature
from pemath.formats.checkpoint import Checkpoint
from pemath.formats.files import open_regular
from pemath.formats.peft import PREFIX, read_json, write_json
from pemath.formats.safetensors import Spec, TensorWriter
from pemath.limits import LIMITS
from pemath.names import display, listing

# What lies beside the weights and is needed to load them: configs, tokenizers, a model's own code.
_COPIED = (".json", ".jinja", ".model", ".py", ".tiktoken", ".txt")
_CARD = ("readme.md", "pemath.lock.json")
_SLAB = 8 << 20
_UNTIED = ("lm_head.weight", "embed_out.weight", "output_layer.weight", "decoder.weight")
_WITH_TIED_HEADS = ("LMHeadModel", "ForCausalLM", "ForConditionalGeneration", "ForMaskedLM")


@target(summary="the base checkpoint with an adapter merged into it", output="checkpoint")
def checkpoint(source: Source, out: Path, *, base_weights: Checkpoint | None = None) -> Outcome:
    """W + ΔW for every parameter that the adapter changes, biases included; heads replace theirs.

    File by file, with the base's layout and dtypes; every other tensor is copied byte for byte, and
    so are config and tokenizer. The certificate is of the rounding to those dtypes, relative to the
    change. PEFT's merge computes the same sum in the dtype of the weights.
    Raises: UsageError, InputError, OperandError, StorageError.
    """
    if base_weights is None:
        raise RequestError("merging needs the base", hint="add --base-weights FOLDER")
    if not source.is_adapter:
        raise KindMismatch(
            "only adapters can be merged into a checkpoint", where=display(source.path)
        )
    adapter = opened(source, base_weights)
    beside = Beside.of(adapter)
    notes = list(beside.notes)
    changes = _by_tensor(changes_of(adapter, beside, base_weights), base_weights)
    replaced = _heads(beside.named().heads, base_weights)
    both = sorted(set(changes) & {t for t, _ in replaced.values() if t})
    if both:
        raise LayoutError(f"the adapter changes and replaces the same weights: {listing(both)}")
    added = {name: head for name, (tensor, head) in replaced.items() if tensor is None}
    swapped = {tensor: (head, name) for name, (tensor, head) in replaced.items() if tensor}
    _refuse_tied(changes, swapped, added, base_weights)
    last = list(base_weights.files)[-1]
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(
                _writer(out / name, base_weights, swapped, added if name == last else {})
            )
            for name in base_weights.files
        }
        for tensor in base_weights.shards:
            if tensor not in changes:
                _copy(writers[base_weights.shards[tensor]], tensor, base_weights, swapped)
        for name, head in added.items():
            for offset, data in head.slabs(name):
                writers[last].write(name.removeprefix(PREFIX), data, offset)
        certificate = certified(
            changes,
            lambda tensor: write_delta(
                writers[base_weights.shards[tensor]],
                tensor,
                changes[tensor],
                base_weights.stored(tensor).kind,
                base_weights.stored(tensor),
            ),
            source.progress,
        )
        for writer in writers.values():
            writer.close()
    left = _copy_files(out, base_weights, [n.removeprefix(PREFIX) for n in added], last)
    if left:
        notes.append(f"not copied from the base: {listing(left)}")
    if added:
        notes.append(
            "the head is new to the checkpoint, whose config.json does not know of it: load it with "
            "the class (and number of labels) that it was trained for"
        )
    same = len(base_weights.shards) - len(changes) - len(swapped)
    return Outcome(
        adapter.kind.name,
        certificate,
        notes=notes,
        facts={
            "files": f"{len(base_weights.files)}",
            "tensors": f"{len(changes)} changed, {len(swapped)} replaced by heads, "
            f"{len(added)} added by heads, {same} copied",
        },
    )


def _by_tensor(changes: Mapping[str, Delta], base: Checkpoint) -> dict[str, Delta]:
    """The changes by the checkpoint's names. Raises LayoutError, ShapeMismatch, UnknownDtype."""
    found: dict[str, Delta] = {}
    missing = []
    for parameter, delta in changes.items():
        tensor = base.find(parameter)
        if tensor is None:
            missing.append(parameter)
            continue
        if tensor in found:
            raise LayoutError(
                f"two changes of the adapter belong to one parameter `{display(tensor)}`",
                where=display(base.path),
            )
        if base.stored(tensor).shape != delta.shape:
            raise ShapeMismatch(
                "the adapter does not fit the base weights",
                where=f"base parameter `{display(tensor)}`",
                found=list(base.stored(tensor).shape),
                expected=list(delta.shape),
            )
        found[tensor] = delta
    if missing:
        raise LayoutError(
            f"the base weights lack parameters that the adapter changes: {listing(missing)}",
            where=display(base.path),
            hint="the adapter belongs to another model, or the layer has no bias in the base",
        )
    return found


def _heads(heads: Sequence[HeadPlan], base: Checkpoint) -> dict[str, tuple[str | None, HeadPlan]]:
    """For each parameter of a head the base's tensor, or None where the base has none.

    Raises: ShapeMismatch for one of another shape.
    """
    found: dict[str, tuple[str | None, HeadPlan]] = {}
    for head in heads:
        for spec in head.specs():
            name = spec.name.removeprefix(PREFIX)
            tensor = base.find(name)
            if tensor is not None and base.entry(tensor).shape != spec.shape:
                raise ShapeMismatch(
                    f"head `{display(head.module)}` has another shape than the base's",
                    where=f"base parameter `{display(tensor)}`",
                    found=list(spec.shape),
                    expected=list(base.entry(tensor).shape),
                    hint="resize the base model first, and save it",
                )
            found[spec.name] = tensor, head
    return found


def _refuse_tied(
    changes: Mapping[str, Delta],
    swapped: Mapping[str, object],
    added: Mapping[str, object],
    base: Checkpoint,
) -> None:
    """Raise UnsupportedFeature where embeddings and output layer are one, and the adapter's are two."""
    stated = base.config.get("architectures")
    names = [str(name) for name in stated] if isinstance(stated, list) else []
    tied = base.config.get("tie_word_embeddings", True) is not False and any(
        name.endswith(_WITH_TIED_HEADS) for name in names
    )
    if not tied or any(name.endswith(_UNTIED) for name in base.shards):
        return
    apart = [n for n, d in changes.items() if d.geometry and d.geometry.layout == "embedding"]
    apart += [n for n in swapped if is_embedding(n.rpartition(".")[0])]
    apart += [n for n in added if n.endswith(_UNTIED)]
    if apart:
        raise UnsupportedFeature(
            f"{listing(apart)} may be tied to the output layer, which the adapter's model has apart",
            where=display(base.path),
            hint="save the base with untied weights (tie_word_embeddings false) and merge into that",
        )


@contextmanager
def _writer(
    out: Path,
    base: Checkpoint,
    swapped: Mapping[str, tuple[HeadPlan, str]],
    added: Mapping[str, HeadPlan],
) -> Iterator[TensorWriter]:
    """The writer of one file: the base's tensors, heads in place of some, and those that are new."""
    file = base.files[out.name]
    specs = []
    for entry in file.entries.values():
        if entry.name in swapped:
            head, name = swapped[entry.name]
            specs.append(Spec(entry.name, _spec(head, name).dtype, entry.shape))
        else:
            specs.append(Spec(entry.name, entry.dtype, entry.shape))
    for name, head in added.items():
        spec = _spec(head, name)
        specs.append(Spec(name.removeprefix(PREFIX), spec.dtype, spec.shape))
    writer = TensorWriter(out, specs, file.metadata)
    try:
        yield writer
    finally:
        writer.abandon()


def _spec(head: HeadPlan, name: str) -> Spec:
    return next(spec for spec in head.specs() if spec.name == name)


def _copy(
    writer: TensorWriter,
    tensor: str,
    base: Checkpoint,
    swapped: Mapping[str, tuple[HeadPlan, str]],
) -> None:
    if tensor in swapped:
        head, name = swapped[tensor]
        for offset, data in head.slabs(name):
            writer.write(tensor, data, offset)
        return
    data = base.file(tensor).raw_bytes(tensor)
    for start in range(0, len(data), _SLAB):
        writer.write(tensor, data[start : start + _SLAB], start)


def _copy_files(out: Path, base: Checkpoint, added: list[str], last: str) -> list[str]:
    """Copy what belongs to the weights; returns the names of files and folders that are not."""
    left = []
    for path in sorted(base.path.iterdir()):
        if path.name in base.files or path.name.lower() in _CARD:
            continue
        if path.name == base.index:
            index = read_json(path, LIMITS.index_bytes)
            if added:
                index["weight_map"] = {**index["weight_map"], **dict.fromkeys(added, last)}
            write_json(out / path.name, index)
        elif path.is_file() and (path.suffix in _COPIED or path.name.startswith("LICENSE")):
            with open_regular(path) as old, (out / path.name).open("xb") as new:
                shutil.copyfileobj(old, new)
        else:
            left.append(path.name)
    return left
