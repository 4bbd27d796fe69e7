"""The Space's page: paste two models' items, read what may be concluded. ``python app.py`` serves it on 127.0.0.1."""

import json
import os
from pathlib import Path
from typing import Any

import evaluate
import gradio

COMPARISON = evaluate.load(str(Path(__file__).with_name("mcq_comparison.py")), module_type="comparison")
EXAMPLE1 = """\
{"id": "cat", "log_likelihoods": [-4.1, -3.2, -9.6], "answer_index": 1}
{"id": "sky", "log_likelihoods": [-2.5, -1.5], "answer_index": 1}
{"id": "sum", "log_likelihoods": [-0.2, -2.2], "answer_index": 0}
"""
EXAMPLE2 = """\
{"id": "cat", "log_likelihoods": [-3.1, -3.2, -9.0], "answer_index": 1}
{"id": "sky", "log_likelihoods": [-2.5, -1.9], "answer_index": 1}
{"id": "sum", "log_likelihoods": [-0.4, -2.0], "answer_index": 0}
"""

Table = list[list[Any]]


def read_items(text: str, name: str) -> list[dict[str, Any]]:
    """Items of ``text``: one JSON object per line, or a whole ``out.json``; ValueError says which line is none."""
    try:
        whole = json.loads(text)
        items = whole.get("items", [whole]) if isinstance(whole, dict) else whole
    except ValueError:
        items = [
            _read_line(f"{name}, line {number}", line)
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip()
        ]
    if not isinstance(items, list) or not items:
        raise ValueError(f"{name}: paste one JSON object per line, like the example")
    for number, item in enumerate(items):
        if not isinstance(item, dict) or not {"log_likelihoods", "answer_index"} <= set(item):
            raise ValueError(f"{name}, item {number}: an object with log_likelihoods and answer_index is needed")
    return items


def judge(first: str, second: str) -> tuple[str, Table]:
    """The conclusion and the numbers as rows (name, value); an error is the conclusion."""
    try:
        ours, theirs = read_items(first, "first model"), read_items(second, "second model")
        _check_same(ours, theirs)
        numbers = COMPARISON.compute(
            predictions1=[item["log_likelihoods"] for item in ours],
            predictions2=[item["log_likelihoods"] for item in theirs],
            references=[item["answer_index"] for item in ours],
            ids=[str(item.get("id", number)) for number, item in enumerate(ours)],
        )
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        return f"**These cannot be compared:** {error}", []
    return numbers.pop("conclusion"), [[name, _shown(value)] for name, value in numbers.items()]


def build() -> gradio.Blocks:
    """The page."""
    with gradio.Blocks(title="MCQ comparison", analytics_enabled=False) as page:
        gradio.Markdown("# MCQ comparison\nTwo models on the same multiple-choice items: what may be concluded?")
        with gradio.Row():
            first = gradio.Textbox(EXAMPLE1, label="First model, one item per line", lines=8, elem_id="first")
            second = gradio.Textbox(EXAMPLE2, label="Second model, the same items", lines=8, elem_id="second")
        button = gradio.Button("Compare", variant="primary", elem_id="compare")
        sentence = gradio.Markdown(elem_id="conclusion")
        numbers = gradio.Dataframe(
            headers=["statistic", "value"], interactive=False, max_height=1000, elem_id="numbers"
        )
        button.click(judge, [first, second], [sentence, numbers])
    return page


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _read_line(place: str, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place} is not JSON: {error}") from error


def _check_same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    if len(ours) != len(theirs):
        raise ValueError(f"the first model has {len(ours)} items, the second {len(theirs)}: give the same items")
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        for key in ("id", "answer_index"):
            if one.get(key) != other.get(key):
                raise ValueError(f"item {number} has {key} {one.get(key)!r} in one and {other.get(key)!r} in the other")


if __name__ == "__main__":
    on_a_space = "SPACE_ID" in os.environ
    build().launch(server_name="0.0.0.0" if on_a_space else "127.0.0.1")
