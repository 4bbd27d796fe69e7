"""What runs leave behind, small: demos, training runs, rollouts and multiple choice, as files."""

import csv
import json
from dataclasses import asdict

from craft_trainer.evaluation.metrics.mcq_comparison.paired import compare_items
from craft_trainer.evaluation.metrics.mcq_likelihood.likelihoods import ItemLikelihoods, item_scores, summarise
from craft_trainer.files import checksum

HISTORY = ("step", "task_loss", "retention_loss", "multiplier", "epsilon", "cosine", "conflict", "update_cosine")
METHODS = {"teacher": (19, 0), "plain": (3, 20), "craft": (18, 19)}  # successes of 20 on each old task, on the new one


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")
    return path


def write_demo(folder, *, old=("push-v3", "reach-v3"), new=("window-close-v3",), seeds=(0, 1), **changes):
    """A results.json in ``folder`` and a history per seed."""
    rows = [
        {"seed": seed, "method": method, "task": task, "group": group, "episodes": 20, "successes": counts[i]}
        for seed in seeds
        for method, counts in METHODS.items()
        for i, (group, tasks) in enumerate((("old", old), ("new", new)))
        for task in tasks
    ]
    summary = {name: {"old": counts[0] / 20, "new": counts[1] / 20} for name, counts in METHODS.items()}
    content = {"schema": 1, "stream": {"old": list(old), "new": list(new)}, "seeds": list(seeds), "rows": rows}
    content |= {"settings": {"policy": "act", "epsilon": 0.05}, "summary": summary, "seconds": {"total": 75.0}}
    content |= {"provenance": {}}
    for seed in seeds:
        write_history(folder / f"seed{seed}/craft", multiplier=0.3 + 0.1 * seed)
    return write_json(folder / "results.json", content | changes)


def write_history(folder, num_steps=60, *, angle_every=10, **changes):
    """lambda_history.csv: the angle of the update is blank but for every tenth step, as the trainer leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lambda_history.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, HISTORY)
        writer.writeheader()
        for step in range(1, num_steps + 1):
            row = {"step": step, "task_loss": 1 / step, "retention_loss": 0.02, "multiplier": 0.5, "epsilon": 0.05}
            row |= {"cosine": -0.3, "conflict": step % 2, "update_cosine": 0.2 if step % angle_every == 1 else ""}
            writer.writerow(row | changes)
    return folder


def write_run(folder, *, history=True, record=True, steps=(60, 60), **changes):
    """The output folder of a training run; ``steps`` made, of how many."""
    folder.mkdir(parents=True, exist_ok=True)
    if history:
        write_history(folder, **changes)
    log = [{"step": step, "loss": 1 / step} for step in range(10, steps[0] + 1, 10)]
    log += [
        {"step": 0, "mcq/kept": 1.0},
        {"step": steps[0], "mcq/kept": 0.75},
        {"step": steps[0], "train_runtime": 9.5},
    ]
    write_json(folder / "trainer_state.json", {"global_step": steps[0], "max_steps": steps[1], "log_history": log})
    if record:
        start, end = {"step": 0, "time": "2026-01-02T03:04:05+00:00"}, {"step": 60, "time": "2026-01-02T03:05:05+00:00"}
        told = {"settings": {"epsilon": 0.05, "learning_rate": 1e-4}, "provenance": {"python": "3.12.1"}}
        write_json(folder / "run.json", {"schema": 1, **told, "starts": [start], "end": end})
    return folder


def write_rollout(path, policy="outputs/craft", tasks=("push-v3", "reach-v3"), successes=18):
    rows = [{"task": task, "episodes": 20, "successes": successes} for task in tasks]
    return write_json(path, {"policy": policy, "seed": 0, "max_steps": 500, "rows": rows})


def write_mcq(path, *, compare=True, **changes):
    """8 of 10 right, and of the second checkpoint 5 of 10; what is changed is changed before the checksum is taken."""
    content = mcq_document(compare=compare) | changes
    return write_json(path, content | {"sha256": checksum(content)})


def mcq_document(*, compare=True):
    style = {"template": "Question: {question}", "delimiter": " ", "answers": "text", "chat": False}
    content = {
        "schema": 1,
        **asked("org/teacher", 8),
        "data": {"path": "questions.jsonl"},
        "settings": {**style, "pmi": False, "method": "auto"},
        "refused": [],
    }
    if compare:
        content["compare"] = asked("outputs/craft", 5)
        items = content["items"], content["compare"]["items"]
        content["comparison"] = json.loads(json.dumps(asdict(compare_items(*items))))
    return content


def asked(model, num_right):
    likelihoods = [
        ItemLikelihoods(
            [-2.5, -1.5] if number < num_right else [-1.5, -2.5 - number],
            answer_index=1,
            **{name: [1, 1] for name in ("num_tokens", "num_chars", "num_bytes")},
        )
        for number in range(10)
    ]
    return {
        "model": model,
        "fingerprint": "0f" * 32,
        "num_items": 10,
        "metrics": summarise(likelihoods),
        "items": [mcq_item(number, one) for number, one in enumerate(likelihoods)],
        "method": "packed",
        "dtype": "float32",
        "seconds": 1.5,
    }


def mcq_item(number, one):
    scores = asdict(item_scores(one))
    return {
        "id": f"q{number}",
        "row": number + 1,
        **{name: value for name, value in asdict(one).items() if name != "unconditional"},
        "token_log_likelihoods": [[value] for value in one.log_likelihoods],
        "unconditional_log_likelihoods": None,
        **{name: scores[name] for name in ("predicted_index", "correct", "margin_gold", "margin_top2")},
        "boundary_ok": True,
    }
