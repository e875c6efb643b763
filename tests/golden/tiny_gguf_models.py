"""Models of one layer with random float32 weights, as GGUF files of several architectures."""

from pathlib import Path

import numpy as np

INNER, HEADS, KEY_HEADS, VOCABULARY = 96, 2, 1, 40
# Widths of a head: transformers reads some architectures' files with one width only.
ARCHITECTURES = {"llama": 32, "qwen2": 32, "qwen3": 128, "gemma2": 256}


def _shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    head = ARCHITECTURES[architecture]
    width, keys = HEADS * head, KEY_HEADS * head
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCABULARY, width),
        "output_norm.weight": (width,),
        "blk.0.attn_norm.weight": (width,),
        "blk.0.ffn_norm.weight": (width,),
        "blk.0.attn_q.weight": (width, width),
        "blk.0.attn_k.weight": (keys, width),
        "blk.0.attn_v.weight": (keys, width),
        "blk.0.attn_output.weight": (width, width),
        "blk.0.ffn_gate.weight": (INNER, width),
        "blk.0.ffn_up.weight": (INNER, width),
        "blk.0.ffn_down.weight": (width, INNER),
    }
    match architecture:
        case "qwen2":
            sizes = {"q": width, "k": keys, "v": keys}
            shapes |= {f"blk.0.attn_{name}.bias": (size,) for name, size in sizes.items()}
        case "qwen3":
            shapes |= {f"blk.0.attn_{name}_norm.weight": (head,) for name in "qk"}
        case "gemma2":
            shapes |= {f"blk.0.post_{name}_norm.weight": (width,) for name in ("attention", "ffw")}
    if architecture != "gemma2":  # its output is tied to the embedding
        shapes["output.weight"] = (VOCABULARY, width)
    return shapes


def write(path: Path, architecture: str) -> Path:
    """Write a model's file."""
    from gguf import GGUFWriter, TokenType

    head = ARCHITECTURES[architecture]
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_context_length(512)
    writer.add_embedding_length(HEADS * head)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(VOCABULARY)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(50.0)
        writer.add_final_logit_softcapping(30.0)
        writer.add_sliding_window(4096)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "</s>", "ab", *(chr(97 + n) for n in range(VOCABULARY - 3))])
    writer.add_token_types(
        [TokenType.CONTROL, TokenType.CONTROL, *([TokenType.NORMAL] * (VOCABULARY - 2))]
    )
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    random = np.random.default_rng(0)
    for name, shape in _shapes(architecture).items():
        values = random.standard_normal(shape)
        is_norm = len(shape) == 1 and name.endswith(".weight")
        values = 1 + 0.2 * values if is_norm else 0.3 * values
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
