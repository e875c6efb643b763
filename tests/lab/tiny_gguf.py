"""A Llama of one layer as a GGUF file, and the float32 weights that it holds."""

from pathlib import Path

import numpy as np

WIDTH, INNER, HEADS, KV_HEADS, VOCABULARY = 64, 96, 2, 1, 40


def write(path: Path) -> dict[str, np.ndarray]:
    """Write the file; returns the weights by their names in transformers."""
    from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quants

    random = np.random.default_rng(0)
    narrow = WIDTH * KV_HEADS // HEADS
    shapes = {
        "token_embd": ("model.embed_tokens", (VOCABULARY, WIDTH)),
        "output_norm": ("model.norm", (WIDTH,)),
        "blk.0.attn_norm": ("model.layers.0.input_layernorm", (WIDTH,)),
        "blk.0.ffn_norm": ("model.layers.0.post_attention_layernorm", (WIDTH,)),
        "blk.0.attn_q": ("model.layers.0.self_attn.q_proj", (WIDTH, WIDTH)),
        "blk.0.attn_k": ("model.layers.0.self_attn.k_proj", (narrow, WIDTH)),
        "blk.0.attn_v": ("model.layers.0.self_attn.v_proj", (narrow, WIDTH)),
        "blk.0.attn_output": ("model.layers.0.self_attn.o_proj", (WIDTH, WIDTH)),
        "blk.0.ffn_gate": ("model.layers.0.mlp.gate_proj", (INNER, WIDTH)),
        "blk.0.ffn_up": ("model.layers.0.mlp.up_proj", (INNER, WIDTH)),
        "blk.0.ffn_down": ("model.layers.0.mlp.down_proj", (WIDTH, INNER)),
    }
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(32)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "</s>", "ab", *(chr(97 + n) for n in range(VOCABULARY - 3))])
    writer.add_token_types(
        [TokenType.CONTROL, TokenType.CONTROL, *([TokenType.NORMAL] * (VOCABULARY - 2))]
    )
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    weights = {}
    for stored, (name, shape) in shapes.items():
        value = random.standard_normal(shape).astype(np.float32)
        if stored == "blk.0.ffn_down":  # one tensor is quantised, as the real file's are
            packed = quants.quantize(value, GGMLQuantizationType.Q4_1)
            value = quants.dequantize(packed, GGMLQuantizationType.Q4_1)
            writer.add_tensor(f"{stored}.weight", packed, raw_dtype=GGMLQuantizationType.Q4_1)
        elif stored in ("blk.0.attn_q", "blk.0.attn_k"):
            heads = HEADS if stored == "blk.0.attn_q" else KV_HEADS
            # llama.cpp interleaves the two halves of every head's rows.
            halves = value.reshape(heads, 2, -1, WIDTH).swapaxes(1, 2)
            writer.add_tensor(f"{stored}.weight", np.ascontiguousarray(halves).reshape(shape))
        else:
            writer.add_tensor(f"{stored}.weight", value)
        weights[f"{name}.weight"] = value
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights
