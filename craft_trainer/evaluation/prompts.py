"""How a question becomes a prompt, and what is scored after it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal

TEMPLATE = "{image}Question: {question}\nAnswer:"  # lm-evaluation-harness's usual one
FIELD = re.compile(r"\{image\}|\{question\}|\{choices\}")


@dataclass(frozen=True)
class PromptStyle:
    """What a question looks like to the model.

    Attributes:
        template: text with ``{question}``, and where wanted ``{image}`` (the model's own placeholder, nothing for a
            question without one) and ``{choices}`` (one line for each: ``A. first``).
        delimiter: what stands between prompt and choice.
        answers: ``text`` scores the choices themselves, ``letters`` scores A, B, C … of a template with ``{choices}``.
        chat: put the prompt into the chat template of the tokenizer, as the user's turn; then without delimiter.
    """

    template: str = TEMPLATE
    delimiter: str = " "
    answers: Literal["text", "letters"] = "text"
    chat: bool = False

    def __post_init__(self) -> None:
        if "{question}" not in self.template:
            raise ValueError(f"the template {self.template!r} has no {{question}} in it")
        if self.answers not in ("text", "letters"):
            raise ValueError(f"answers is {self.answers!r}: choose text or letters")
        if self.answers == "letters" and "{choices}" not in self.template:
            raise ValueError("answers are letters: the template must list the {choices} they stand for")

    def check(self, tokenizer: Any) -> None:
        """Whether ``tokenizer`` can be asked in this way.

        Raises:
            ValueError: a chat template is wanted and it has none.
        """
        if self.chat and not getattr(tokenizer, "chat_template", None):
            raise ValueError("the model's tokenizer has no chat template: leave --chat out")

    def prompt(self, question: str, choices: Sequence[str], image: str, tokenizer: Any) -> str:
        """The text before the choice; ``image`` is the placeholder, empty without an image."""
        listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False))
        values = {"{image}": image, "{question}": question, "{choices}": listed}
        filled = FIELD.sub(lambda found: values[found[0]], self.template)  # what is filled in is not searched again
        if not self.chat:
            return filled
        turns = [{"role": "user", "content": filled}]
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return text

    def answers_of(self, choices: Sequence[str]) -> list[str]:
        """What is scored, without the delimiter.

        Raises:
            ValueError: more choices than letters.
        """
        if self.answers == "text":
            return list(choices)
        if len(choices) > len(ascii_uppercase):
            raise ValueError(f"{len(choices)} choices are more than there are letters")
        return list(ascii_uppercase[: len(choices)])

    def continuations(self, choices: Sequence[str]) -> list[str]:
        """What is scored, delimiter included."""
        return [("" if self.chat else self.delimiter) + answer for answer in self.answers_of(choices)]
