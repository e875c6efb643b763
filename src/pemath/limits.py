"""Every bound on untrusted input, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds that are checked before anything of that size is allocated.

    They are far above what real adapters need: the header of a 7B LoRA has 0.06 MB and 450 tensors.
    """

    header_bytes: int = 16 << 20
    tensors: int = 500_000
    tensor_name_length: int = 512
    dimensions: int = 6
    tensor_elements: int = 1 << 40
    computed_site_elements: int = 1 << 30
    computed_elements: int = 1 << 37
    config_bytes: int = 8 << 20
    index_bytes: int = 64 << 20
    shards: int = 4096
    request_bytes: int = 256 << 10
    patterns: int = 20_000
    nested_parameters: int = 6
    json_depth: int = 64
    expression_length: int = 100_000
    expression_tokens: int = 20_000
    expression_depth: int = 200
    number_bits: int = 4096
    number_magnitude: float = 1e30
    operands: int = 4096
    layer_keys: int = 1000
    layer_key_length: int = 200


LIMITS = Limits()
