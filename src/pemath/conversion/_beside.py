"""What goes into an adapter folder beside the changes: weights that replace the base's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pemath.composition.heads import HeadPlan, plan_heads
from pemath.conversion._deltas import Delta, deltas, of_full
from pemath.errors import LayoutError, RequestError, ShapeMismatch, UnsupportedFeature
from pemath.formats.checkpoint import Checkpoint, module_of
from pemath.formats.peft import PREFIX
from pemath.formats.safetensors import Spec, TensorWriter
from pemath.kinds import Adapter
from pemath.kinds.full import FullDelta
from pemath.names import display, listing


@dataclass(frozen=True, eq=False)
class Beside:
    """Heads of an adapter, and parameters of a checkpoint that are kept whole, by name."""

    heads: Sequence[HeadPlan] = ()
    bias: str = "none"
    checkpoint: Checkpoint | None = None
    whole: Sequence[str] = ()
    notes: Sequence[str] = field(default=())

    @classmethod
    def of(cls, adapter: Adapter) -> Beside:
        """All heads of an adapter as they are. Raises NonFiniteValue."""
        heads, notes = plan_heads([("source", adapter, lambda module: 1.0)], None)
        for head in heads:
            head.check_finite()
        stated = adapter.folder.config.get("bias")
        biased = any(head.config_name is None for head in heads)
        return cls(heads, str(stated) if biased and stated else "none", notes=notes)

    @classmethod
    def kept(cls, checkpoint: Checkpoint, names: Sequence[str]) -> Beside:
        """Parameters that are kept whole. Raises UnsupportedFeature for one of no module."""
        alone = [name for name in names if "." not in name]
        if alone:
            raise UnsupportedFeature(
                f"{listing(alone)} belongs to no module, so that it cannot be kept as a head"
            )
        return cls(checkpoint=checkpoint, whole=names)

    def named(self) -> Beside:
        """Only what `modules_to_save` names; `unnamed` is the rest."""
        return replace(self, heads=[head for head in self.heads if head.config_name])

    def unnamed(self, base: Checkpoint | None) -> dict[str, Delta]:
        """What trained biases and saved embeddings change, by parameter.

        PEFT stores the base's own embeddings beside an adapter of them, which change nothing.
        Raises: RequestError without base weights, LayoutError, ShapeMismatch.
        """
        heads = [head for head in self.heads if not head.config_name]
        found: dict[str, Delta] = {}
        for head in heads:
            if base is None:
                raise RequestError(
                    f"`{display(head.module)}` replaces weights of the base, and its change is not "
                    "known without them",
                    hint="add --base-weights FOLDER",
                )
            for spec in head.specs():
                name = module_of(spec.name.removeprefix(PREFIX))
                tensor, stored = base.find(name), head.stored(spec.name)
                if tensor is None:
                    raise LayoutError(
                        f"the base weights have no `{display(name)}`", where=display(base.path)
                    )
                before = base.stored(tensor)
                if before.shape != stored.shape:
                    raise ShapeMismatch(
                        f"`{display(name)}` has another shape than the base's",
                        found=list(stored.shape),
                        expected=list(before.shape),
                        hint="resize the base model first, and save it",
                    )
                change = FullDelta(stored.shape, ((1.0, stored), (-1.0, before)))
                if change.norm() > 0:
                    found[name] = of_full(name, change)
        return found

    @property
    def saved(self) -> list[str] | None:
        """`modules_to_save` of the config."""
        names = {name for head in self.heads if (name := head.config_name)}
        names |= {name.rpartition(".")[0] for name in self.whole}
        return sorted(names) or None

    def specs(self) -> list[Spec]:
        """The tensors to write."""
        found = [spec for head in self.heads for spec in head.specs()]
        if self.checkpoint is not None:
            entries = {name: self.checkpoint.entry(name) for name in self.whole}
            found += [Spec(PREFIX + name, e.dtype, e.shape) for name, e in entries.items()]
        return found

    def write(self, writer: TensorWriter) -> None:
        """Write them."""
        for head in self.heads:
            for spec in head.specs():
                for offset, data in head.slabs(spec.name):
                    writer.write(spec.name, data, offset)
        for name in self.whole:
            if self.checkpoint is not None:
                data = self.checkpoint.file(name).raw_bytes(name)
                writer.write(PREFIX + name, data)


def changes_of(adapter: Adapter, beside: Beside, base: Checkpoint | None) -> dict[str, Delta]:
    """All that an adapter changes by parameter, trained biases included; heads that
    `modules_to_save` names are not among it.

    Raises: LayoutError for a parameter that is changed and replaced, besides what `deltas` and
    `unnamed` raise.
    """
    found, replaced = deltas(adapter, base), beside.unnamed(base)
    both = [name for name in replaced if name in found]
    if both:
        raise LayoutError(
            f"the adapter changes and replaces the same weights: {listing(both)}",
            where=display(adapter.folder.path),
        )
    return found | replaced
