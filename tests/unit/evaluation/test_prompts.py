"""Prompts: what is filled in, and what is scored after them."""

import pytest
from texts import text_tokenizer

from craft_trainer.evaluation.prompts import PromptStyle


def test_the_default_is_lm_evaluation_harness_own():
    style = PromptStyle()
    assert style.prompt("Why?", ["a", "b"], "", None) == "Question: Why?\nAnswer:"
    assert style.prompt("Why?", ["a", "b"], "<image>", None) == "<image>Question: Why?\nAnswer:"
    assert style.continuations(["a", "b"]) == [" a", " b"]


def test_what_is_filled_in_is_not_searched_for_fields():
    """Seen to fail with one ``str.replace`` after the other."""
    style = PromptStyle("{image}{question}|{choices}")
    assert style.prompt("{choices} {image}", ["{question}"], "<i>", None) == "<i>{choices} {image}|A. {question}"


def test_letters_stand_for_listed_choices():
    style = PromptStyle("{question}\n{choices}\nAnswer:", answers="letters")
    assert style.prompt("Why?", ["so", "not so"], "", None) == "Why?\nA. so\nB. not so\nAnswer:"
    assert style.continuations(["so", "not so"]) == [" A", " B"]
    with pytest.raises(ValueError, match="27 choices are more than there are letters"):
        style.answers_of([str(number) for number in range(27)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "Answer:"}, r"no \{question\} in it"),
        ({"answers": "numbers"}, "answers is 'numbers': choose text or letters"),
        ({"answers": "letters"}, r"must list the \{choices\}"),
        ({"answers": "letters", "template": "{question} {{choices}}"}, r"must list the \{choices\}"),
        ({"template": "{{question}}"}, r"no \{question\} in it"),
        ({"template": "{question}\n{choises}"}, r"the field \{choises\}, .* did you mean \{choices\}\?"),
        ({"template": "{task} {question}"}, r"The fields are \{question\}, \{choices\} and \{image\}"),
        ({"template": "{image}{question}{image}"}, r"\{image\} twice"),
    ],
)
def test_styles_that_cannot_be_asked(options, message):
    with pytest.raises(ValueError, match=message):
        PromptStyle(**options)


def test_braces_that_are_no_field_are_text():
    """Of JSON as they are, and a word in two pairs loses one: that is how a prompt has {answer} in it."""
    style = PromptStyle('{"q": "{question}", "a": {}} {{answer}} { x }{image}')
    assert style.prompt("Why?", ["a", "b"], "<i>", None) == '{"q": "Why?", "a": {}} {answer} { x }<i>'


def test_choices_that_have_no_letter_are_not_left_out_of_the_list():
    """Seen to fail with the 27th choice scored, and not listed."""
    style = PromptStyle("{question}\n{choices}\nAnswer:")
    with pytest.raises(ValueError, match="27 choices are more than there are letters"):
        style.prompt("Why?", [str(number) for number in range(27)], "", None)
    assert PromptStyle().prompt("Why?", [str(number) for number in range(27)], "", None) == "Question: Why?\nAnswer:"


def test_a_chat_template_that_leaves_the_question_out_is_refused():
    """Templates of vision-language models walk over the parts of a turn, and of a plain text there are none. Seen to
    fail with every question asked as an empty turn."""
    tokenizer = text_tokenizer(num_spare=0)
    tokenizer.chat_template = (
        "{% for turn in messages %}User:{% for part in turn.content %}{% if part.type == 'text' %}{{ part.text }}"
        "{% endif %}{% endfor %}{% endfor %}"
    )
    with pytest.raises(ValueError, match="chat template leaves out 'Question: Why"):
        PromptStyle(chat=True).prompt("Why?", ["a", "b"], "", tokenizer)


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no') }}",
        "{{ messages.x.y }}",
        "{{ 1 / 0 }}",
        "{% for i in range(10 ** 12) %}a{% endfor %}",
        "{{ messages[7].content }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ 'a' * 'b' }}",
        "{% if %}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    ],
)
def test_a_chat_template_that_fails_is_told(template):
    """Seen to fail with a division by zero, a range that never ends, and a macro that calls itself."""
    tokenizer = text_tokenizer(num_spare=0)
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match="chat template"):
        PromptStyle(chat=True).prompt("Why?", ["a", "b"], "", tokenizer)


def test_a_chat_template_is_the_users_turn_and_replaces_the_delimiter():
    tokenizer = text_tokenizer(num_spare=0)
    style = PromptStyle("{question}", chat=True)
    with pytest.raises(ValueError, match="has no chat template"):
        style.check(tokenizer)
    turns = "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{% endfor %}"
    tokenizer.chat_template = turns + "{% if add_generation_prompt %}<robot>{% endif %}"
    style.check(tokenizer)
    assert style.prompt("Why?", ["a", "b"], "", tokenizer) == "<user>Why?<robot>"
    assert style.continuations(["a", "b"]) == ["a", "b"]
