"""What is converted: an adapter folder, a checkpoint folder or a file, opened only as far as asked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pemath.errors import KindMismatch
from pemath.formats.peft import PeftFolder
from pemath.kinds import Adapter, open_adapter
from pemath.kinds.lora import Lora
from pemath.names import display
from pemath.references import CONFIG, resolve
from pemath.threads import Progress, silent


@dataclass(frozen=True, eq=False)
class Source:
    """A reference as the user wrote it, and the folder or file that it stands for. `progress` is to
    be told how far the work is.
    """

    reference: str
    path: Path
    revision: str | None = None
    progress: Progress = silent

    @classmethod
    def of(cls, reference: str, progress: Progress = silent) -> Source:
        """A path of a file, or a folder by any reference. Raises ReferenceNotFound."""
        path = Path(reference).expanduser()
        if "\0" not in reference and path.is_file():
            return cls(reference, path, progress=progress)
        found = resolve(reference)
        return cls(reference, found.folder, found.revision, progress)

    @property
    def is_adapter(self) -> bool:
        """Whether it is a folder with an adapter's config."""
        return (self.path / CONFIG).is_file()

    @cached_property
    def adapter(self) -> Adapter:
        """The adapter, its config and header checked. Raises InputError and StorageError; the
        adapter's own obstacles too.
        """
        found = open_adapter(PeftFolder.open(self.path))
        if found.obstacles:
            raise found.obstacles[0]
        return found

    def loras(self) -> dict[str, Lora]:
        """The adapter's sites as plain LoRA. Raises KindMismatch if it is of another kind."""
        sites = {name: v for name, v in self.adapter.sites.items() if isinstance(v, Lora)}
        if len(sites) < len(self.adapter.sites):
            raise KindMismatch(
                "this target holds plain LoRA only",
                where=display(self.path),
                found=f"kind {self.adapter.kind.name}",
                hint="convert it first: `pemath convert SOURCE --to lora`",
            )
        return sites
