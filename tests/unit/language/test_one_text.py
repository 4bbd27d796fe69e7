"""One text has the same tokens wherever it is read: in training, before texts of the model's own, in questions."""

import pytest
from bpe import bpe_tokenizer
from lm_folders import UNMARKED
from transformers import LlamaConfig, LlamaForCausalLM

from craft_trainer.evaluation.choices.text import TextChoices
from craft_trainer.evaluation.mcq import encode
from craft_trainer.evaluation.prompts import PromptStyle
from craft_trainer.evaluation.questions import Question
from craft_trainer.language.own_texts import _question, read_questions_of
from craft_trainer.language.samples import TextSamples
from craft_trainer.language.source import TextSource

ASKED, ANSWER, END = "Where is the puck?", "left of the goal", 1
TALK = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWER}]
WITHOUT_BOS = UNMARKED.replace("'<bos>' + ", "").replace("<bos>assistant", "assistant")


@pytest.fixture(params=[(bos, eos) for bos in (False, True) for eos in (False, True)], ids=str)
def paths(request, lines):
    """Every way from a row to tokens, with a tokenizer that adds BOS, EOS, both or neither."""
    bos, eos = request.param
    tokenizer = bpe_tokenizer(bos=bos, eos=eos)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return Paths(LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)), tokenizer, lines)


class Paths:
    def __init__(self, model, tokenizer, lines):
        self._model, self.tokenizer, self._lines = model, tokenizer, lines

    def trained(self, row, **options):
        """The tokens before those that are learned, and these."""
        sample = TextSamples.open(self._lines([row]), self._model, self.tokenizer, **options)[0]
        start = next(place for place, label in enumerate(sample["labels"]) if label != -100)
        return sample["input_ids"][:start], sample["input_ids"][start:]

    def asked(self, row, **options):
        """What the model goes on from when it writes a text of its own."""
        (question,) = read_questions_of(TextSource(self._lines([row]), **options), self.tokenizer)
        return _question(self.tokenizer, question)

    def scored(self, prompt, **style):
        """The tokens before those that are scored, and these."""
        question = Question("1", prompt, (ANSWER, "yes"), 0, None, 1)
        made = encode(TextChoices(self._model, self.tokenizer), question, PromptStyle("{question}", **style))
        return list(made.prefix), list(made.choices[0])


@pytest.mark.parametrize(
    ("prompt", "gap"), [(ASKED, " "), (f"{ASKED} ", ""), (f"{ASKED}\n", ""), (f"<bos>{ASKED}", " ")]
)
def test_a_prompt_and_its_answer(paths, prompt, gap):
    """Seen to fail with a space at the end of a prompt as a token of its own, and with a second BOS in training."""
    before, learned = paths.trained({"prompt": prompt, "completion": gap + ANSWER})
    assert paths.scored(prompt, delimiter=gap) == (before, learned[:-1])
    assert learned[-1] == END
    assert paths.asked({"prompt": prompt}) == paths.asked({"text": prompt}) == before
    first, rest = paths.trained({"text": prompt + gap + ANSWER})
    assert first + rest == before + learned


@pytest.mark.parametrize("template", [UNMARKED, WITHOUT_BOS])
def test_a_conversation(paths, template):
    """Seen to fail with a BOS in questions that the chat template does not write."""
    paths.tokenizer.chat_template = template
    before, learned = paths.trained({"prompt": TALK[:1], "completion": TALK[1:]})
    assert paths.trained({"prompt": ASKED, "completion": ANSWER}, chat=True) == (before, learned)
    whole = paths.tokenizer.apply_chat_template(TALK, return_dict=True)["input_ids"]
    first, rest = paths.trained({"messages": TALK})
    assert first + rest == before + learned == whole
    for row, options in (({"messages": TALK}, {}), ({"prompt": TALK[:1]}, {}), ({"prompt": ASKED}, {"chat": True})):
        assert paths.asked(row, **options) == before
    assert paths.scored(ASKED, chat=True) == (before, learned[:-1])
