"""References to adapters, resolved to a local folder.

`folder`, `folder:subfolder`, `example:NAME` (shipped with pemath), or a hub repository
`user/repo@revision:subfolder`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pemath.errors import ReferenceNotFound
from pemath.names import display, listing, stays_inside

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
STATISTICS = "statistics.safetensors"
LOCK = "pemath.lock.json"

_REPOSITORY = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<subfolder>[^:]+))?"
)
_EXAMPLE = "example:"


@dataclass(frozen=True)
class Resolved:
    """A reference as the user wrote it, the folder it stands for, and the hub commit if any."""

    reference: str
    folder: Path
    revision: str | None = None


def examples() -> list[str]:
    """Names of the adapters shipped with pemath."""
    root = resources.files("pemath") / "examples"
    return sorted(item.name for item in root.iterdir() if (item / CONFIG).is_file())


def resolve(reference: str) -> Resolved:
    """The local folder that `reference` names, downloaded if it is a hub repository.

    Raises: ReferenceNotFound.
    """
    found = resolve_locally(reference)
    if found is not None:
        return found
    match = _REPOSITORY.fullmatch(reference)
    if match is None or Path(reference).exists() or reference.startswith((".", "/", "~")):
        kind = "it is a file" if Path(reference).is_file() else "no such folder"
        raise ReferenceNotFound(
            f"`{display(reference)}` is not an adapter: {kind}",
            expected="a folder, folder:subfolder, example:NAME or user/repo@revision",
            hint="`pemath convert FILE --to peft` makes a folder of a file in kohya's or diffusers' layout"
            if Path(reference).is_file()
            else None,
        )
    return _download(reference, match)


def pinned(reference: str, revision: str | None) -> str:
    """A hub reference at a recorded commit; any other reference as it is."""
    match = _REPOSITORY.fullmatch(reference)
    if revision is None or match is None:
        return reference
    subfolder = f":{match['subfolder']}" if match["subfolder"] else ""
    return f"{match['repo']}@{revision}{subfolder}"


def resolve_locally(reference: str) -> Resolved | None:
    """The folder that `reference` names on this machine, or None if it names none here.

    Raises: ReferenceNotFound for an unknown example or subfolder.
    """
    try:
        return _locally(reference)
    except (OSError, RuntimeError, ValueError) as error:
        raise ReferenceNotFound(
            f"`{display(reference)}` cannot be looked at: "
            f"{display(getattr(error, 'strerror', None) or error)}"
        ) from None


def _locally(reference: str) -> Resolved | None:
    if not reference or "\0" in reference:
        raise ReferenceNotFound(f"`{display(reference)}` is not a reference")
    if reference.startswith(_EXAMPLE):
        return _example(reference)
    path = Path(reference).expanduser()
    if path.is_dir():
        return Resolved(reference, path)
    folder, _, subfolder = reference.rpartition(":")
    root = Path(folder).expanduser()
    if not folder or not root.is_dir():
        return None
    if not stays_inside(subfolder):
        raise ReferenceNotFound("a subfolder must stay inside its folder", where=display(reference))
    if not (root / subfolder).is_dir():
        raise ReferenceNotFound(
            f"the folder has no subfolder `{display(subfolder)}`", where=display(folder)
        )
    return Resolved(reference, root / subfolder)


def _example(reference: str) -> Resolved:
    name = reference.removeprefix(_EXAMPLE)
    if name not in examples():
        raise ReferenceNotFound(
            f"there is no example `{display(name)}`",
            hint=f"the examples are {listing(examples())}",
        )
    return Resolved(reference, Path(str(resources.files("pemath") / "examples" / name)))


def _download(reference: str, match: re.Match[str]) -> Resolved:
    import huggingface_hub  # 0.3 s, and only needed here

    repo, revision, subfolder = match["repo"], match["revision"], match["subfolder"]
    if subfolder and (not stays_inside(subfolder) or re.search(r"[*?\[]", subfolder)):
        raise ReferenceNotFound(
            "a subfolder must stay inside its repository", where=display(reference)
        )
    if revision and not stays_inside(revision):
        raise ReferenceNotFound(
            "a revision is a branch, a tag or a commit", where=display(reference)
        )
    prefix = f"{subfolder}/" if subfolder else ""
    try:
        root = huggingface_hub.snapshot_download(
            repo,
            revision=revision,
            allow_patterns=[prefix + CONFIG, prefix + WEIGHTS],
        )
    except Exception as error:  # noqa: BLE001 - the hub's client raises many unrelated types
        raise ReferenceNotFound(
            f"there is no folder `{display(reference)}`, and no such repository on the hub "
            f"({display(' '.join(str(error).split()), 160)})",
            hint="check the spelling; for a local adapter give its folder",
        ) from None
    commit = Path(root).name
    return Resolved(reference, Path(root) / subfolder if subfolder else Path(root), commit)
