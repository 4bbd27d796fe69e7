"""The Space's page: paste items with log-likelihoods, read the scores. ``python app.py`` serves it on 127.0.0.1."""

import json
import os
from pathlib import Path
from typing import Any

import evaluate
import gradio

METRIC = evaluate.load(str(Path(__file__).with_name("mcq_likelihood.py")))
LENGTHS = ("num_tokens", "num_chars", "num_bytes", "unconditional")
EXAMPLE = """\
{"choices": ["a cat", "a dog", "an elephant"], "log_likelihoods": [-4.1, -3.2, -9.6], "answer_index": 1}
{"choices": ["red", "blue"], "log_likelihoods": [-2.5, -1.5], "answer_index": 0}
{"choices": ["yes", "no"], "log_likelihoods": [-0.2, -2.2], "answer_index": 0}
"""
SHOWN = ("predicted_index", "correct", "correct_per_char", "margin_gold", "margin_top2", "confidence")

Table = list[list[Any]]


def read_items(text: str) -> list[dict[str, Any]]:
    """Items of ``text``: JSON objects, one per line, or a whole ``out.json``; ValueError says which line is none."""
    try:
        whole = json.loads(text)
        items = whole.get("items", [whole]) if isinstance(whole, dict) else whole
    except ValueError:
        items = [_read_line(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items) or not items:
        raise ValueError("paste one JSON object per line, like the example")
    return items


def score(text: str) -> tuple[str, Table, Table]:
    """A sentence, the means as rows (name, value), and one row per item; an error is the sentence."""
    try:
        items = [_with_lengths(item) for item in read_items(text)]
        given = [name for name in LENGTHS if any(name in item for item in items)]
        numbers = METRIC.compute(
            predictions=_column(items, "log_likelihoods"),
            references=_column(items, "answer_index"),
            **{name: _column(items, name) for name in given},
            per_item=True,
        )
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        return f"**This cannot be scored:** {error}", [], []
    rows = [[number, *(_shown(item[name]) for name in SHOWN)] for number, item in enumerate(numbers.pop("items"))]
    means = [[name, _shown(value)] for name, value in numbers.items()]
    return f"**{numbers['num_items']} items, accuracy {numbers['accuracy']:.3f}**", means, rows


def build() -> gradio.Blocks:
    """The page."""
    with gradio.Blocks(title="MCQ likelihood", analytics_enabled=False) as page:
        gradio.Markdown(
            "# MCQ likelihood\nScores of multiple-choice questions from the log-likelihoods of their choices."
        )
        text = gradio.Textbox(EXAMPLE, label="One item per line", lines=8, elem_id="items")
        button = gradio.Button("Score", variant="primary", elem_id="score")
        sentence = gradio.Markdown(elem_id="sentence")
        means = gradio.Dataframe(headers=["score", "value"], interactive=False, max_height=1000, elem_id="means")
        rows = gradio.Dataframe(headers=["item", *SHOWN], interactive=False, max_height=1000, elem_id="rows")
        button.click(score, text, [sentence, means, rows])
    return page


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _read_line(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number} is not JSON: {error}") from error


def _with_lengths(item: dict[str, Any]) -> dict[str, Any]:
    choices = item.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        return item
    return {"num_chars": [len(text) for text in choices], "num_bytes": [len(text.encode()) for text in choices]} | item


def _column(items: list[dict[str, Any]], name: str) -> list[Any]:
    missing = [number for number, item in enumerate(items) if name not in item]
    if missing:
        raise ValueError(f"item {missing[0]} has no {name!r}")
    return [item[name] for item in items]


if __name__ == "__main__":
    on_a_space = "SPACE_ID" in os.environ
    build().launch(server_name="0.0.0.0" if on_a_space else "127.0.0.1")
