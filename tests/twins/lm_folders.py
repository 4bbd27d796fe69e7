"""A language model of a few thousand parameters with its tokenizer, saved in a folder as the Hub would have it."""

import json

import torch
from bpe import bpe_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

CHAT = (
    "{% for m in messages %}{{ '<bos>' + m['role'] + ': ' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] + '<eos>' }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<bos>assistant: ' }}{% endif %}"
)
UNMARKED = CHAT.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def save_tiny_lm(folder, *, seed=0, chat=CHAT, **options):
    """Save a Llama over the words of ``bpe_tokenizer`` in ``folder``."""
    torch.manual_seed(seed)
    tokenizer = bpe_tokenizer()
    tokenizer.chat_template = chat
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **tokens, **sizes | options)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():  # so that every token matters
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_lines(path, rows):
    """Write ``rows`` as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
