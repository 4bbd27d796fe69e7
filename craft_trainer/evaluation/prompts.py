"""Turn a question into a prompt and the continuations that are scored."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from string import ascii_uppercase
from typing import Any, Literal

TEMPLATE = "{image}Question: {question}\nAnswer:"  # lm-evaluation-harness's usual one
FAILURES = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError)  # of a chat template
FIELDS = ("question", "choices", "image")
FIELD = re.compile(r"\{\{(\w+)\}\}|\{(\w+)\}")  # in two braces it is text


@dataclass(frozen=True)
class PromptStyle:
    """The form in which the model reads a question.

    Attributes:
        template: text with ``{question}``, and where wanted ``{image}`` (the model's own placeholder, nothing for a
            question without one) and ``{choices}`` (one line for each: ``A. first``). ``{{name}}`` is the text {name}.
        delimiter: what stands between prompt and choice.
        answers: ``text`` scores the choices themselves, ``letters`` scores A, B, C … of a template with ``{choices}``.
        chat: put the prompt into the chat template of the tokenizer, as the user's turn; then without delimiter.
    """

    template: str = TEMPLATE
    delimiter: str = " "
    answers: Literal["text", "letters"] = "text"
    chat: bool = False

    def __post_init__(self) -> None:
        fields = self.fields
        for name in fields:
            if name not in FIELDS:
                near = get_close_matches(name, FIELDS, n=1)
                hint = f": did you mean {{{near[0]}}}?" if near else "."
                raise ValueError(
                    f"the template {self.template!r} has the field {{{name}}}, which no question has{hint} The fields "
                    f"are {{question}}, {{choices}} and {{image}}; to have {{{name}}} as text, write {{{{{name}}}}}"
                )
        if "question" not in fields:
            raise ValueError(f"the template {self.template!r} has no {{question}} in it")
        if fields.count("image") > 1:
            raise ValueError(
                f"the template {self.template!r} has {{image}} twice, and a question has one image at most"
            )
        if self.answers not in ("text", "letters"):
            raise ValueError(f"answers is {self.answers!r}: choose text or letters")
        if self.answers == "letters" and "choices" not in fields:
            raise ValueError("answers are letters: the template must list the {choices} they stand for")

    @property
    def fields(self) -> list[str]:
        """The names in braces, as often as they are in the template."""
        return [found[2] for found in FIELD.finditer(self.template) if found[2]]

    def check(self, templates: Any) -> None:
        """Raise a ValueError if a chat template is wanted and ``templates`` (tokenizer or processor) has none."""
        if self.chat and not getattr(templates, "chat_template", None):
            raise ValueError("the model's tokenizer has no chat template: leave --chat out")

    def prompt(self, question: str, choices: Sequence[str], image: str, templates: Any) -> str:
        """The text before the choice; ``image`` is the placeholder, empty without an image.

        Raises:
            ValueError: more choices to list than letters, or a chat template that drops what it is given.
        """
        values = {"question": question}
        if "choices" in self.fields:
            values["choices"] = "\n".join(map(". ".join, zip(letters(len(choices)), choices, strict=True)))
        parts, begin = [""], 0
        for found in FIELD.finditer(self.template):  # what is filled in is not searched again
            text, name = found.groups()
            parts[-1] += self.template[begin : found.start()]
            begin = found.end()
            if name == "image":
                parts.append("")
            else:
                parts[-1] += f"{{{text}}}" if text else values[name]
        parts[-1] += self.template[begin:]
        return chat_prompt(parts, image, templates) if self.chat else image.join(parts)

    def answers_of(self, choices: Sequence[str]) -> list[str]:
        """The scored texts without the delimiter."""
        return list(choices) if self.answers == "text" else letters(len(choices))

    def continuations(self, choices: Sequence[str]) -> list[str]:
        """The scored texts, delimiter included."""
        return [("" if self.chat else self.delimiter) + answer for answer in self.answers_of(choices)]


def letters(number: int) -> list[str]:
    """A, B, C … for ``number`` choices; ValueError if there are more choices than letters."""
    if number > len(ascii_uppercase):
        raise ValueError(f"{number} choices are more than there are letters")
    return list(ascii_uppercase[:number])


def applied(templates: Any, messages: Sequence[Any], **options: Any) -> Any:
    """Apply the chat template of ``templates`` to ``messages``; a ValueError for whatever it fails with.

    A template is a program of whoever made the model. Jinja runs it in a sandbox that reaches neither files nor Python.
    """
    from jinja2 import TemplateError

    try:
        return templates.apply_chat_template(messages, **options)
    except (*FAILURES, TemplateError) as error:
        raise ValueError(f"the chat template does not take its messages: {error}") from error


def chat_prompt(parts: Sequence[str], image: str, templates: Any) -> str:
    """``parts``, with the image between them, as the user's turn, up to where the answer begins.

    A processor's template walks over the parts of a turn, a tokenizer's takes it as one text. ValueError if it leaves
    something out.
    """
    content: Any = image.join(parts)
    if hasattr(templates, "image_processor"):
        texts = [[{"type": "text", "text": part}] if part else [] for part in parts]
        content = texts[0] + [one for text in texts[1:] for one in ([{"type": "image"}] if image else []) + text]
    turns = [{"role": "user", "content": content}]
    prompt: str = applied(templates, turns, tokenize=False, add_generation_prompt=True)
    for part in (*parts, image):
        if part.strip() not in prompt:
            raise ValueError(f"the model's chat template leaves out {part.strip()!r}: leave --chat out")
    return prompt
