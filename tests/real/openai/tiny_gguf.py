"""Write a tiny Llama with random weights as a GGUF file: `tiny_gguf.py FILE SEED`.

Runs in the environment that install.py makes.  Only printable ASCII is ever said, and an end never: the rows of other
tokens in the last matrix are zero, and so less likely than the best of the rest.
"""

import string
import sys

import numpy as np
from gguf import GGUFWriter, TokenType

CONTEXT, WIDTH, LAYERS, HEADS, INNER = 2048, 64, 2, 4, 128
SPECIAL = ("<unk>", "<s>", "</s>")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPACE = "\u2581"  # stands for a space
SAID = [SPACE, *sorted(set(string.printable) - set(string.whitespace))]
TOKENS = [*SPECIAL, *BYTES, *SAID]
TYPES = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
TYPES += [TokenType.BYTE] * len(BYTES) + [TokenType.NORMAL] * len(SAID)
TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"


def main(path: str, seed: int) -> None:
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * len(TOKENS))
    writer.add_token_types(TYPES)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, values in weights(np.random.default_rng(seed)):
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def weights(random: np.random.Generator):
    def normal(*shape: int) -> np.ndarray:
        return 0.3 * random.standard_normal(shape)

    last = normal(len(TOKENS), WIDTH)
    last[: len(SPECIAL) + len(BYTES)] = 0
    yield "token_embd.weight", normal(len(TOKENS), WIDTH)
    yield "output_norm.weight", np.ones(WIDTH)
    yield "output.weight", last
    for layer in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{norm}.weight", np.ones(WIDTH)
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"blk.{layer}.{part}.weight", normal(WIDTH, WIDTH)
        yield f"blk.{layer}.ffn_gate.weight", normal(INNER, WIDTH)
        yield f"blk.{layer}.ffn_up.weight", normal(INNER, WIDTH)
        yield f"blk.{layer}.ffn_down.weight", normal(WIDTH, INNER)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
