"""Conversations as a model's chat template writes them."""

import re
from collections.abc import Mapping
from typing import Any

from craft_trainer.evaluation.prompts import applied
from craft_trainer.evaluation.question_rows import BadRowError, checked_text, kind_of, shown

MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")  # how a template says which tokens are the assistant's
PIXELS = ("image", "path", "url", "base64")  # under which a part of a message may bring its own image
Messages = list[dict[str, Any]]
Variables = Mapping[str, Any]  # what a template is given beside the messages: tools, documents, settings of its own
NOTHING: Variables = {}


class Chat:
    """The chat template of a tokenizer or processor; a BadRowError says what it does not take.

    Args:
        processor: what has the template.
        placeholder: what stands for an image in a text; "" for a model that sees none.
    """

    def __init__(self, processor: Any, placeholder: str = "") -> None:
        self._tokenizer: Any = getattr(processor, "tokenizer", processor)
        found = getattr(processor, "chat_template", None) or self._tokenizer.chat_template
        templates = found if isinstance(found, dict) else {"default": found}
        self._template = templates.get("default")
        self._with_tools = templates.get("tool_use", self._template)
        self._placeholder = placeholder

    @property
    def template(self) -> str:
        """Its text; a ValueError if there is none, so that messages cannot be written."""
        if not isinstance(self._template, str):
            raise ValueError(
                "the model has no chat template for messages: give text, or prompt and completion, or add a template "
                "to its tokenizer (chat_template.jinja)"
            )
        return self._template

    @property
    def marks_answers(self) -> bool:
        """True if the template says which tokens are the assistant's (``{% generation %}``)."""
        return isinstance(self._template, str) and MARK.search(self._template) is not None

    def text(self, messages: Messages, variables: Variables = NOTHING, *, answer_next: bool = False) -> str:
        """The conversation as a text; with ``answer_next`` it ends where the assistant's next message begins."""
        return str(self._apply(messages, variables, tokenize=False, add_generation_prompt=answer_next))

    def tokens(self, messages: Messages, variables: Variables = NOTHING) -> tuple[list[int], list[bool]]:
        """Tokens of the conversation, images as their placeholder, and which of them the template marks."""
        made = self._apply(messages, variables, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        return list(made["input_ids"]), [bool(mark) for mark in made["assistant_masks"]]

    def checked(self, value: Any, what: str) -> Messages:
        """``value`` as messages: objects with ``role`` and ``content``, parts of content as the template takes them."""
        if not isinstance(value, list | tuple) or not value:
            raise BadRowError(f"{what} must be a list of messages, not {kind_of(value)}")
        return [self._message(one, f"{what}[{index}]") for index, one in enumerate(value)]

    def _message(self, value: Any, what: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise BadRowError(f"{what} must be an object with role and content, not {kind_of(value)}")
        message = {key: part for key, part in value.items() if part is not None}
        role = checked_text(message.get("role"), f"the role of {what}")
        if message.get("weight", 1) != 1:
            raise BadRowError(f"{what} has a weight, which is not followed: give the row as prompt and completion")
        content = message.get("content", "" if message.get("tool_calls") else None)
        if content == "" and message.get("tool_calls"):
            return message | {"role": role, "content": ""}
        if not isinstance(content, list | tuple):
            return message | {"role": role, "content": checked_text(content, f"the content of {what}")}
        if not content:
            raise BadRowError(f"the content of {what} is empty")
        parts = [_part(part, what) for part in content]
        if self._placeholder:
            return message | {"role": role, "content": parts}
        if any(part["type"] != "text" for part in parts):
            raise BadRowError(f"{what} has parts that are not text, which the model does not take")
        return message | {"role": role, "content": "".join(part["text"] for part in parts)}

    def _apply(self, messages: Messages, variables: Variables, **options: Any) -> Any:
        template = str(self._with_tools) if "tools" in variables else self.template
        unread = [name for name in variables if name not in template]
        if unread:
            raise BadRowError(f"it has {unread[0]}, which the chat template does not read: leave that column out")
        try:
            return applied(self._tokenizer, messages, chat_template=template, **options, **variables)
        except ValueError as error:
            raise BadRowError(str(error)) from error


def without_nulls(value: Any) -> Any:
    """``value`` without the keys that hold nothing, at any depth: Arrow gives every row the keys of all others."""
    if isinstance(value, Mapping):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


def with_images(messages: Messages, num_images: int) -> Messages:
    """``messages`` with parts for as many images, which go in front of the first message of the user if none are named.

    Raises:
        BadRowError: they name another number of images.
    """
    named = sum(part["type"] == "image" for one in messages for part in _parts(one))
    if named == num_images:
        return [one | {"content": _parts(one)} for one in messages]
    if named:
        raise BadRowError(f"its messages name {named} images, its columns hold {num_images}")
    first = next((index for index, one in enumerate(messages) if one["role"] == "user"), 0)
    return [
        one | {"content": [{"type": "image"}] * (num_images if index == first else 0) + _parts(one)}
        for index, one in enumerate(messages)
    ]


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _part(value: Any, what: str) -> dict[str, Any]:
    """A part of a message: text, or the place of an image (whose pixels are in the row's own column)."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "text":
        return {"type": "text", "text": checked_text(value.get("text"), f"a text of {what}")}
    if kind == "image":
        own = [name for name in PIXELS if value.get(name)]
        if own:
            raise BadRowError(f"{what} brings an image of its own ({own[0]}): put it into the column images")
        return {"type": "image"}
    raise BadRowError(f"{what} has a part that is neither text nor image: {shown(value)}")
