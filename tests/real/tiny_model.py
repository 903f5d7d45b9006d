"""Write a tiny Llama with random weights, its tokenizer and its chat template: `tiny_model.py DIR SEED`.

Runs in the environment that install.py makes.  Nothing is downloaded.  Every token is printable
ASCII, so a streamed token is never held back for the rest of a character.
"""

import string
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT = 4096
SPECIAL = {"pad_token": "<|pad|>", "bos_token": "<|bos|>", "eos_token": "<|im_end|>", "unk_token": "<|unk|>"}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = (
    "the quick brown fox jumps over the lazy dog",
    "many models take turns on one card and sleep while another one answers",
    "user assistant system hello world count one two three four five six seven eight nine ten",
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte pairs over printable ASCII, a few hundred tokens."""
    alphabet = sorted(set(string.printable) - set("\t\r\x0b\x0c"))
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_next")
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(
        vocab_size=256,
        special_tokens=[*SPECIAL.values(), "<|im_start|>"],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=CONTEXT, **SPECIAL)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def tiny_llama(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        **tokens,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.generation_config = GenerationConfig(**tokens)
    return model


def main(directory: str, seed: str) -> None:
    Path(directory).mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(directory)
    tiny_llama(tokenizer, int(seed)).save_pretrained(directory)


if __name__ == "__main__":
    main(*sys.argv[1:])
