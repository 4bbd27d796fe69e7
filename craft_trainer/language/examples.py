"""One row of a dataset of texts as an example: what is written, where learning begins, what it shows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from craft_trainer.evaluation.question_images import StoredImage
from craft_trainer.evaluation.question_rows import BadRowError, checked_text, kind_of
from craft_trainer.language.chat import NOTHING, Chat, Messages, Variables, with_images, without_nulls
from craft_trainer.language.rows import Rows

Image = Path | StoredImage
OF_TEMPLATES = ("tools", "documents", "chat_template_kwargs")  # columns that a chat template is given
FIELDS = ("text", "prompt", "completion", "messages", "image", "images", "group", *OF_TEMPLATES)
FORMATS = ("messages", "prompt", "text")  # by the column that shows it, the first of them that there is


class Example(NamedTuple):
    """A row that was checked.

    Attributes:
        text: all of it, as the model reads it; images are their placeholders.
        prompt: the beginning of ``text`` that is not learned, of a prompt and its completion.
        messages: of a conversation, its messages.
        variables: what its chat template is given beside them.
        images: what it shows, in the order of the placeholders.
        group: the old task it belongs to.
        has_marks: special tokens are part of the text already, as a chat template writes them.
    """

    text: str
    prompt: str | None = None
    messages: Messages | None = None
    variables: Variables = NOTHING
    images: tuple[Image, ...] = ()
    group: str = ""
    has_marks: bool = False


@dataclass(frozen=True)
class Columns:
    """The names of the data's columns.

    Attributes:
        format: ``text``, ``prompt`` (with its ``completion``) or ``messages``.
        names: our names to those of the data.
        has_images: there is a column of images.
        group: the column of the groups, or None.
        chat: a prompt that is text is what the user says, its completion what the assistant answers.
    """

    format: str
    names: Mapping[str, str]
    has_images: bool
    group: str | None
    chat: bool = False

    @classmethod
    def of(
        cls, rows: Rows, mapping: Mapping[str, str], *, group: str | None, answers: bool, chat: bool = False
    ) -> "Columns":
        """The columns of ``rows``, where ``mapping`` says our names to theirs.

        Args:
            answers: whether rows bring their completions; without them a prompt is enough.

        Raises:
            ValueError: there is no text in them, or one that is named is not there.
        """
        for ours in mapping:
            if ours not in FIELDS:
                raise ValueError(f"columns names {ours!r}; it can name {', '.join(FIELDS)}")
        if group is not None and "group" in mapping:
            raise ValueError(f"group_column is {group!r}, and columns names {mapping['group']!r}: give one of them")
        group = mapping.get("group", group)
        for theirs in (*mapping.values(), *([] if group is None else [group])):
            if theirs not in rows.columns:
                raise ValueError(f"{rows.place} has no column {theirs!r}; its columns are {', '.join(rows.columns)}")
        names = {field: mapping.get(field, field) for field in FIELDS}
        named = [format_ for format_ in FORMATS if format_ in mapping]
        there = named or [format_ for format_ in FORMATS if names[format_] in rows.columns]
        if not there:
            raise ValueError(
                f"{rows.place} has no column text, messages, or prompt and completion. Its columns are "
                f"{', '.join(rows.columns)}: say which are meant, like --columns text=NAME or "
                "prompt=NAME,completion=NAME"
            )
        if "completion" in mapping and there[0] != "prompt":
            raise ValueError(
                f"columns names a completion, and what is read of {rows.place} is {there[0]}: name the prompt as well, "
                "or leave it out"
            )
        if answers and there[0] == "prompt" and names["completion"] not in rows.columns:
            raise ValueError(
                f"{rows.place} has a column {names['prompt']!r} but none of completions: --columns completion=NAME"
            )
        if chat and there[0] == "text":
            raise ValueError(f"chat needs prompts: of the texts of {rows.place} nobody says what the user asked")
        has_images = names["image"] in rows.columns or names["images"] in rows.columns
        return cls(there[0], names, has_images, group, chat)


class ExampleReader:
    """Rows of a dataset as examples.

    Args:
        chat: the model's chat template.
        placeholder: what stands for an image in a text; "" for a model that sees none.
    """

    def __init__(self, rows: Rows, columns: Columns, chat: Chat, placeholder: str) -> None:
        self.rows, self.columns = rows, columns
        self._chat, self._placeholder = chat, placeholder

    def read(self, raw: Mapping[str, Any]) -> Example:
        """The example that the row ``raw`` of the source is; a BadRowError if it is none."""
        value = self.rows.value(dict(raw))
        images = self._images(value)
        return self._written(value, len(images))._replace(images=images, group=self._group(value))

    def question(self, raw: Mapping[str, Any]) -> Example:
        """The part of a row that a model is to answer: a prompt, or messages up to the assistant's last."""
        value = self.rows.value(dict(raw))
        group = self._group(value)
        if self.columns.format == "messages":
            messages = self._chat.checked(self._field(value, "messages"), "messages")
            messages = messages[:-1] if messages[-1]["role"] == "assistant" else messages
            if not messages:
                raise BadRowError("its messages hold nothing to answer")
            return Example(self._asked(messages, value), group=group, has_marks=True)
        if self.columns.format == "text":
            return Example(checked_text(self._field(value, "text"), "text"), group=group)
        prompt = self._field(value, "prompt")
        if isinstance(prompt, str) and not self.columns.chat:
            return Example(checked_text(prompt, "prompt"), group=group)
        prompt = _said(prompt, "user", "prompt")
        return Example(self._asked(self._chat.checked(prompt, "prompt"), value), group=group, has_marks=True)

    def _group(self, value: Mapping[str, Any]) -> str:
        """The group of a row, "" where there are none; a number is one as well."""
        column = self.columns.group
        if column is None:
            return ""
        group = value.get(column)
        is_number = isinstance(group, int) and not isinstance(group, bool)
        return str(group) if is_number else checked_text(group, f"the group {column!r}")

    def _asked(self, messages: Messages, value: Mapping[str, Any]) -> str:
        return self._chat.text(messages, self._variables(value), answer_next=True)

    def _written(self, value: Mapping[str, Any], num_images: int) -> Example:
        match self.columns.format:
            case "messages":
                messages = self._messages(self._field(value, "messages"), "messages", num_images)
                given = self._variables(value)
                return Example(self._chat.text(messages, given), messages=messages, variables=given, has_marks=True)
            case "text":
                return Example(self._placed(checked_text(self._field(value, "text"), "text"), num_images))
        prompt, completion = self._field(value, "prompt"), self._field(value, "completion")
        if isinstance(prompt, str) and not self.columns.chat:
            prompt = self._placed(checked_text(prompt, "prompt"), num_images)
            return Example(prompt + checked_text(completion, "completion"), prompt=prompt)
        asked = self._messages(_said(prompt, "user", "prompt"), "prompt", num_images)
        reply = self._chat.checked(_said(completion, "assistant", "completion"), "completion")
        reply = with_images(reply, 0) if self._placeholder else reply
        begun = self._asked(asked, value)
        whole = self._chat.text([*asked, *reply], self._variables(value))
        if not whole.startswith(begun):
            raise BadRowError(
                "the chat template writes the prompt otherwise when the completion follows it: give the row as messages"
            )
        return Example(whole, prompt=begun, has_marks=True)

    def _messages(self, value: Any, what: str, num_images: int) -> Messages:
        messages = self._chat.checked(value, what)
        return with_images(messages, num_images) if self._placeholder else messages

    def _field(self, value: Mapping[str, Any], field: str) -> Any:
        name = self.columns.names[field]
        if value.get(name) is None:
            raise BadRowError(f"it has no {name!r}")
        return value[name] if self.rows.are_lines else without_nulls(value[name])

    def _variables(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs of the chat template beside the messages: tools (or their JSON), documents, and its settings."""
        there = [field for field in OF_TEMPLATES if value.get(self.columns.names[field])]
        found = {field: self._field(value, field) for field in there}
        try:
            found = {field: json.loads(part) if isinstance(part, str) else part for field, part in found.items()}
        except ValueError as error:
            raise BadRowError(f"its {', '.join(there)} are text, but not JSON: {error}") from error
        settings = found.pop("chat_template_kwargs", {})
        if not isinstance(settings, Mapping):
            raise BadRowError(f"chat_template_kwargs must be an object, not {kind_of(settings)}")
        return {**found, **settings}

    def _images(self, value: Mapping[str, Any]) -> tuple[Image, ...]:
        """Open the row's images; a BadRowError if an image is not there, or does not open."""
        if not self._placeholder:
            return ()
        one, several = (value.get(self.columns.names[field]) for field in ("image", "images"))
        if several is not None and not isinstance(several, list | tuple):
            raise BadRowError(f"images must be a list, not {kind_of(several)}")
        found = [self.rows.images.find(image) for image in ([one] if several is None else several)]
        return tuple(image for image in found if image is not None)

    def _placed(self, text: str, num_images: int) -> str:
        """``text`` with a placeholder for every image; in front of it if there is none."""
        mark = self._placeholder
        there = text.count(mark) if mark else 0
        if there not in (0, num_images):
            raise BadRowError(f"its text holds {there} times {mark!r}, its columns {num_images} images")
        return text if there else mark * num_images + text


def _said(value: Any, role: str, what: str) -> Any:
    """Text as the message of ``role``; messages as they are."""
    return [{"role": role, "content": checked_text(value, what)}] if isinstance(value, str) else value


def bad_rows_text(place: str, reasons: Sequence[tuple[int, str]]) -> str:
    """Say what is wrong with the first of the bad rows, and how many there are."""
    number, reason = reasons[0]
    more = f" ({len(reasons)} bad rows in all)" if len(reasons) > 1 else ""
    return f"{place}, row {number}: {reason}{more}. Mend it, or leave bad rows out with --on_bad_row skip"
