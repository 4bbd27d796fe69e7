"""The loss of texts that several processes evaluate, and its right value."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from tiny_lm import VOCABULARY, tiny_llama

from craft_trainer.language.encoding import collate
from craft_trainer.training.language_config import LanguageConfig
from craft_trainer.training.text_trainer import TextTrainer

LEARNED = (1, 11, 2, 10, 1, 9, 3, 11, 1, 1, 2, 10)  # tokens with a label, text by text


def eval_loss(folder: Path, num_texts: int) -> tuple[float, float]:
    """``eval_loss`` in batches of 2, and the mean over all labels of ``num_texts`` texts of very different lengths."""
    generator = torch.Generator().manual_seed(3)
    texts = []
    for learned in LEARNED[:num_texts]:
        ids = torch.randint(VOCABULARY, (12,), generator=generator).tolist()
        texts.append({"input_ids": ids, "labels": [-100] * (12 - learned) + ids[12 - learned :]})
    model = tiny_llama()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # so that losses differ
    settings = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "per_device_eval_batch_size": 2}
    config = LanguageConfig(output_dir=str(folder), max_steps=1, dataloader_pin_memory=False, **settings)
    trainer = TextTrainer(
        model, config, train_dataset=texts, eval_dataset=texts, data_collator=lambda samples: collate(samples, 0)
    )
    found = trainer.evaluate()["eval_loss"]
    with torch.no_grad():
        losses = torch.cat([_losses(model, text) for text in texts])
    return found, float(losses.double().mean())


def _losses(model: torch.nn.Module, text: dict[str, list[int]]) -> torch.Tensor:
    """The loss of every label."""
    batch = collate([text], 0)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[0, :-1].cpu()
    labels = batch["labels"][0, 1:].cpu()
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")[labels != -100]
