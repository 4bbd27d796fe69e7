"""A language model with random weights, and questions for it: python tiny_question_model.py MODEL QUESTIONS.jsonl

For the session `wheel` of noxfile.py, in an environment that knows craft_trainer only as a wheel.
"""

import json
import sys
from pathlib import Path

from bpe import bpe_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

QUESTIONS = {"Where is the puck?": ["left of the goal", "in the goal"], "Is the gripper open?": ["yes", "no", "half"]}


def main() -> None:
    """Write both."""
    model, questions = map(Path, sys.argv[1:])
    set_seed(0)
    tokenizer = bpe_tokenizer(bos=True)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(model)
    tokenizer.save_pretrained(model)
    rows = [{"question": question, "choices": choices, "answer_index": 0} for question, choices in QUESTIONS.items()]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
