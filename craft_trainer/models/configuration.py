"""The part of a model's configuration that decides its outputs, which its weights do not show: rope, windows, ids."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from craft_trainer.models.base import without_idle_adapters
from craft_trainer.models.quantization import CONFIG, decisive_settings

# Fields of a HuggingFace configuration, at any depth, that change nothing of what comes out of a pass in evaluation
# mode: where it came from, how it runs, what only training, generation, tokenizers or heads of classes read.
NOT_DECISIVE = {
    *("architectures", "auto_map", "custom_pipelines", "name_or_path", "revision", "transformers_version"),
    *("attn_implementation", "chunk_size_feed_forward", "dtype", "gradient_checkpointing", "pretraining_tp"),
    *("tf_legacy_loss", "torch_dtype", "torchscript", "use_bfloat16", "use_cache"),
    *("cache_implementation", "output_attentions", "output_hidden_states", "output_router_logits", "return_dict"),
    *("use_return_dict", "initializer_factor", "initializer_range", "init_std", "problem_type", "finetuning_task"),
    *("id2label", "label2id", "num_labels", "ignore_index", "router_aux_loss_coef", "router_jitter_noise"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "tokenizer_class"),
    *("max_length", "min_length", "max_new_tokens", "do_sample", "early_stopping", "num_beams", "num_beam_groups"),
    *("diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty"),
    *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "prefix"),
    *("suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id"),
    *("remove_invalid_values", "exponential_decay_length_penalty", "return_dict_in_generate", "output_scores"),
    "task_specific_params",
}
NOT_DECISIVE_PARTS = ("dropout", "pdrop", "layerdrop", "drop_path")  # of names: off in evaluation mode
MISSING = object()


def configuration_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of JSON with sorted keys; what JSON does not have is taken by its ``repr``."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()


def saved_digest(*parts: Any) -> str:
    """SHA-256 of the files that ``parts`` (processors, tokenizers) save of themselves, whatever device they run on."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            part.save_pretrained(folder)
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            digest.update(str(file.relative_to(folder)).encode())
            digest.update(_without_device(file) if file.suffix == ".json" else file.read_bytes())
    return digest.hexdigest()


def image_settings(processor: Any) -> dict[str, Any]:
    """Settings by which a processor scales, cuts and normalises pictures; {} if it takes none."""
    images = getattr(processor, "image_processor", None)
    return {} if images is None else {k: v for k, v in images.to_dict().items() if k != "processor_class"}


def decisive_fields(config: Any) -> dict[str, Any]:
    """Fields of a HuggingFace configuration that decide outputs and are not the default of its class.

    Defaults are left out, so that a field that a later version adds does not make another model of this one.
    """
    defaults, kept = _defaults(config), {"model_type": config.model_type}
    for name, value in config.to_dict().items():
        if name.startswith("_") or name in NOT_DECISIVE or any(part in name for part in NOT_DECISIVE_PARTS):
            continue
        inner = getattr(config, name, None)
        if name == CONFIG:
            kept[name] = decisive_settings(inner)
        elif hasattr(inner, "to_dict"):
            kept[name] = decisive_fields(inner)
        elif value != defaults.get(name, MISSING):
            kept[name] = value
    return kept


def module_configurations(module: nn.Module) -> dict[str, Any]:
    """:func:`decisive_fields` of every HuggingFace module inside of ``module``, and the scales of its adapters."""
    return inner_configurations(module) | {f"scale of {path}": at for path, at in adapter_scales(module).items()}


def inner_configurations(module: nn.Module) -> dict[str, Any]:
    """:func:`decisive_fields` of every HuggingFace module inside of ``module``."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for path, part in module.named_modules():
        config = getattr(part, "config", None)
        if hasattr(config, "to_dict") and hasattr(config, "model_type") and id(config) not in seen:
            seen.add(id(config))
            found[path] = decisive_fields(config)
    return found


def adapter_scales(module: nn.Module) -> dict[str, list[float]]:
    """Scales of the low-rank updates of PEFT's active adapters; {} if they have no effect yet."""
    if not any(".lora_" in name for name in without_idle_adapters(module)):
        return {}
    layers = {path: part for path, part in module.named_modules() if hasattr(part, "lora_A")}
    return {
        path: [scale for name, scale in layer.scaling.items() if name in layer.active_adapters]
        for path, layer in layers.items()
    }


def _without_device(file: Path) -> bytes:
    """A processor's file in canonical form, without the device that its steps run on and the names that data has."""
    config = json.loads(file.read_text("utf-8"))
    for step in config.get("steps", []) if isinstance(config, dict) else []:
        settings = step.get("config", {})
        settings.pop("device", None)
        if "rename_map" in settings:
            settings["rename_map"] = {}
    return json.dumps(config, sort_keys=True).encode()


def _defaults(config: Any) -> dict[str, Any]:
    """The fields of a new configuration of the same class, or nothing if it takes more than that."""
    if getattr(config, "has_no_defaults_at_init", False):
        return {}
    try:
        return dict(type(config)().to_dict())
    except (TypeError, ValueError, AttributeError):
        return {}
