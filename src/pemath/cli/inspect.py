"""`pemath inspect`."""

from __future__ import annotations

from collections import Counter

from pemath.cli._flags import Flag
from pemath.cli._output import ProgressLine, show_facts, show_json, size_text
from pemath.diagnose.inspect import Inspection
from pemath.diagnose.inspect import inspect as look
from pemath.names import display


def inspect(
    reference: str,
    *,
    sites: Flag = False,
    json: Flag = False,
) -> None:
    """Say what an adapter is: kind, base model, rank, sites, dtype, norms, size.

    Parameters
    ----------
    reference
        A folder, folder:subfolder, example:NAME or user/repo@revision:subfolder.
    sites
        List every site.
    json
        Print JSON, errors included.
    """
    line = ProgressLine()
    try:
        found = look(reference, progress=line)
    finally:
        line.close()
    if json:
        show_json(found.as_dict())
        return
    show_facts(display(found.reference), _facts(found))
    if sites:
        print()
        show_facts(
            "sites",
            [
                (display(name), f"{s.shape}, {_site(s.rank, s.norm)}")
                for name, s in found.sites.items()
            ],
        )


def _facts(found: Inspection) -> list[tuple[str, str]]:
    ranks = ", ".join(map(str, found.ranks))
    scales = ", ".join(f"{scale:.6g}" for scale in found.scales[:6])
    shapes = Counter(name.rsplit(".", 1)[-1] for name in found.sites)
    where = ", ".join(f"{count} {display(name, 40)}" for name, count in shapes.most_common(8))
    return [
        ("kind", found.kind or f"not supported: {display(found.peft_type, 40)}"),
        ("base", display(found.base_model) if found.base_model else "not stated"),
        ("sites", f"{len(found.sites)} ({where})" if found.sites else ""),
        ("rank", ranks),
        ("scaling", scales),
        ("dtype", ", ".join(f"{count} tensors {name}" for name, count in found.dtypes.items())),
        ("norm", f"{found.norm:.6g} (Frobenius, all sites)" if found.sites else ""),
        *(("head", f"{display(name)}, {size} parameters") for name, size in found.heads.items()),
        ("size", f"{found.parameters} parameters, {size_text(found.size)}"),
        ("PEFT", display(found.peft_version or "")),
        *(("note", note) for note in found.notes),
        *(
            ("refused", f"{error.what}" + (f" ({error.hint})" if error.hint else ""))
            for error in found.obstacles
        ),
    ]


def _site(rank: int | None, norm: float) -> str:
    return f"norm {norm:.6g}" if rank is None else f"rank {rank}, norm {norm:.6g}"
