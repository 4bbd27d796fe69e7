"""A language model learns to write Python, plainly and by CRaFT, and is asked before and after what it knows.

    python scripts/language_model.py --model HuggingFaceTB/SmolLM2-135M-Instruct --questions questions.jsonl

The new task is this machine's Python standard library, every tenth file kept for testing. The anchors are texts that
the model writes itself, so no old data is needed (Huang et al. 2024, arXiv 2403.01244). It is the worked example of
docs/mcq.md.
"""

import argparse
import json
import sysconfig
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from transformers.trainer_utils import get_last_checkpoint

from craft_trainer import AnchorCache, CraftConfig, CraftTrainer
from craft_trainer.anchors.building import build_anchor_cache
from craft_trainer.evaluation.mcq import McqSettings
from craft_trainer.evaluation.mcq_callback import McqCallback
from craft_trainer.evaluation.mcq_run import McqRun, evaluate_checkpoints, table
from craft_trainer.evaluation.metrics.mcq_comparison.paired import compare_items
from craft_trainer.evaluation.questions import read_questions
from craft_trainer.models.families import as_anchored_model
from craft_trainer.report.figures.canvas import standalone_image
from craft_trainer.report.figures.dots import change_figure

TOKENS = 64  # of a sample
NUM_ANCHORS = 256
NUM_TEST = 100
ASKED_WHILE_TRAINING = 30


def main() -> None:
    """Anchors, both trainings, both tests, what was forgotten."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a causal language model: a folder or a Hub repository")
    parser.add_argument("--questions", required=True, help="JSON lines, asked every 20 steps")
    parser.add_argument("--output", type=Path, default=Path("outputs/language_model"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--learning_rate", type=float, default=2e-3, help="a careless one, so that there is damage")
    parser.add_argument(
        "--epsilon",
        type=float,
        default=0.05,
        help="KL(teacher || student) per token, as a fraction of the teacher's mean entropy",
    )
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    train, test = python_samples(tokenizer)
    anchors = own_texts(arguments.model, tokenizer, arguments.output / "anchors")
    losses = {"before": test_loss(arguments.model, test)}
    for method, cache in (("plain", None), ("craft", anchors)):
        folder = arguments.output / method
        fine_tune(arguments, tokenizer, train, cache, folder)
        losses[method] = test_loss(str(folder), test)
    (arguments.output / "python.json").write_text(json.dumps(losses, indent=1) + "\n")
    print(losses)
    compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """What each of the two has forgotten: the documents, a picture, and what may be concluded."""
    questions = read_questions(arguments.questions, on_bad_row="skip")
    documents = {}
    for label, name in (
        ("before", arguments.model),
        ("plain fine-tuning", str(arguments.output / "plain")),
        ("CRaFT", str(arguments.output / "craft")),
    ):
        output = arguments.output / f"mcq_{label.split()[0].lower()}.json"
        run = McqRun(questions=questions, settings=McqSettings(), output=output, skip_bad=True, dtype="float32")
        documents[label] = evaluate_checkpoints([name], run)
    before = documents.pop("before")
    comparisons = {
        label: asdict(compare_items(before["items"], document["items"])) for label, document in documents.items()
    }
    (arguments.output / "comparisons.json").write_text(json.dumps(comparisons, indent=1) + "\n")
    for label, document in documents.items():
        print(f"\n{label}\n{table(before | {'compare': document, 'comparison': comparisons[label]})}")
    picture = arguments.output / "change.svg"
    picture.write_bytes(standalone_image(lambda: change_figure(comparisons), "svg"))
    print(f"\npicture: {picture}")


def fine_tune(
    arguments: argparse.Namespace, tokenizer: Any, train: list[torch.Tensor], anchors: AnchorCache | None, folder: Path
) -> None:
    """The same steps on the same samples, with anchors or without."""
    set_seed(0)
    config = CraftConfig(
        output_dir=str(folder),
        max_steps=arguments.steps,
        per_device_train_batch_size=8,
        learning_rate=arguments.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=5,
        logging_steps=5,
        save_steps=20,
        save_total_limit=1,
        report_to=[],
        retention_terms=["token_kl"],
        retention_batch_size=8,
        epsilon=arguments.epsilon,
        task_kl_samples=0,
    )
    trainer = CraftTrainer(
        AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32),
        config,
        anchors=anchors,
        train_dataset=[{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids} for ids in train],
        processing_class=tokenizer,
    )
    questions = read_questions(arguments.questions, on_bad_row="skip", limit=ASKED_WHILE_TRAINING)
    trainer.add_callback(McqCallback(trainer, tokenizer, questions.items, steps=20))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.is_dir() else None)
    trainer.save_model()
    trainer.save_state()


def python_samples(tokenizer: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Pieces of the standard library, one from each file: for training, and for the test."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for path in library.rglob("*.py") if not {"site-packages", "test"} & set(path.parts))
    pieces = []
    for path in files:
        ids = tokenizer(path.read_text("utf-8", errors="ignore")[:4000]).input_ids
        pieces.append(torch.tensor(ids[-TOKENS:]) if len(ids) >= TOKENS else None)
    whole = [piece for piece in pieces if piece is not None]
    return [piece for number, piece in enumerate(whole) if number % 10], whole[::10][:NUM_TEST]


def own_texts(model_name: str, tokenizer: Any, folder: Path) -> AnchorCache:
    """What the model writes by itself, and its distribution over the next token at every place of it."""
    if folder.exists():
        return AnchorCache(folder)
    set_seed(0)
    model = AutoModelForCausalLM.from_pretrained(model_name, dtype=torch.float32).eval()
    start = torch.full((32, 1), tokenizer.bos_token_id)
    options = {"do_sample": True, "min_new_tokens": TOKENS - 1, "max_new_tokens": TOKENS - 1, "top_k": 0}
    texts = torch.cat([model.generate(start, **options) for _ in range(NUM_ANCHORS // len(start))])
    return build_anchor_cache(
        as_anchored_model(model),
        lambda rows: {"input_ids": texts[rows], "attention_mask": torch.ones_like(texts[rows])},
        folder,
        rows=range(NUM_ANCHORS),
        groups=["own texts"] * NUM_ANCHORS,
        specs=[],
        batch_size=16,
        source={"dataset": "written by the model", "frames": NUM_ANCHORS},
        teacher_path=model_name,
    )


def test_loss(model_name: str, test: list[torch.Tensor]) -> float:
    """Mean negative log-likelihood of a token of Python the model was not trained on, in nats."""
    model = AutoModelForCausalLM.from_pretrained(model_name, dtype=torch.float32).eval()
    with torch.no_grad():
        losses = [model(input_ids=ids[None], labels=ids[None]).loss.item() for ids in test]
    return sum(losses) / len(losses)


if __name__ == "__main__":
    main()
