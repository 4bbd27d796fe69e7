"""Language models whose weights have 4 or 8 bits, by bitsandbytes: how they are loaded, and by what they are known."""

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

# NF4 with quantised constants (Dettmers et al. 2023, arXiv 2305.14314), and LLM.int8() (2022, arXiv 2208.07339).
SETTINGS: dict[str, dict[str, Any]] = {
    "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "8bit": {"load_in_8bit": True},
}
RECORD = "base_quantization"  # in the auto_mapping of adapter_config.json, which PEFT saves and does not read
CONFIG = "quantization_config"  # in config.json
PACKS = "support_avx512bf16_for_cpu"  # of bitsandbytes' 4-bit layers
CHATTY = "bitsandbytes.autograd._functions"  # logs at every product of 8 bits that what is multiplied becomes float16


def checked_quantization(quantization: str | None) -> str | None:
    """``quantization`` if it is one that can be had here, or None.

    Raises:
        ValueError: there is no such one.
        ImportError: bitsandbytes is not installed.
    """
    if quantization is None:
        return None
    if quantization not in SETTINGS:
        raise ValueError(f"quantization is {quantization!r}: choose {', '.join(SETTINGS)}, or leave it out")
    require_bitsandbytes(f"quantization {quantization}")
    return quantization


def loading_options(config: Any, quantization: str | None, dtype: str | None, folder: Any) -> dict[str, Any]:
    """Quantisation options of ``from_pretrained``; none for weights that are to stay, or are, as saved.

    Args:
        config: of the model in ``folder``.
        dtype: of the weights that are not quantised, in which all are multiplied; that of ``config`` if None.

    Raises:
        ValueError: the weights are saved quantised, and are to be quantised.
        ImportError: bitsandbytes is not installed and would be needed.
    """
    saved = method_of(config)
    refuse_twice(str(folder), saved, quantization)
    if saved in SETTINGS:
        require_bitsandbytes(f"{folder}, whose weights are saved quantised ({saved}),")
    if "8bit" in (saved, quantization):
        logging.getLogger(CHATTY).setLevel(logging.ERROR)
    if quantization is None:
        return {}
    from transformers import BitsAndBytesConfig

    kept = dtype or config.dtype or config.get_text_config().dtype or torch.float32
    computed = getattr(torch, kept) if isinstance(kept, str) else kept
    return {CONFIG: BitsAndBytesConfig(**SETTINGS[quantization], bnb_4bit_compute_dtype=computed)}


def method_of(config: Any) -> str | None:
    """The quantisation of a configuration, or of what is in config.json: 4bit, 8bit, another's name."""
    found = config.get(CONFIG) if isinstance(config, Mapping) else getattr(config, CONFIG, None)
    if found is None:
        return None
    settings = dict(found) if isinstance(found, Mapping) else found.to_dict()
    bits = (name for name in SETTINGS if settings.get(f"load_in_{name}"))
    return next(bits, None) or str(getattr(settings.get("quant_method"), "value", settings.get("quant_method")))


def decisive_settings(found: Any) -> dict[str, Any]:
    """Settings of a ``quantization_config`` that are not the defaults of its class."""
    return dict(found) if isinstance(found, Mapping) else dict(found.to_diff_dict())


def quantised_when_loaded(model: Any) -> str | None:
    """By which of ``SETTINGS`` the weights of ``model`` were quantised; None if they were not, or are saved so."""
    quantizer = getattr(model, "hf_quantizer", None)
    found = None if quantizer is None or quantizer.pre_quantized else method_of(model.config)
    return found if found in SETTINGS else None


def record(quantization: str | None) -> dict[str, Any] | None:
    """The record, for an adapter's configuration, of a base that was quantised when it was loaded."""
    return None if quantization is None else {RECORD: SETTINGS[quantization]}


def recorded(settings: Mapping[str, Any]) -> str | None:
    """Read what :func:`record` wrote into the adapter_config.json with ``settings``; None if nothing.

    Raises:
        ValueError: it is nothing that was written there.
    """
    found = (settings.get("auto_mapping") or {}).get(RECORD)
    if found is None:
        return None
    names = [name for name, known in SETTINGS.items() if known == found]
    if not names:
        known = " or ".join(map(str, SETTINGS.values()))
        raise ValueError(f"adapter_config.json: {RECORD} is {found}, and known is {known}")
    return names[0]


def quantization_of_base(folder: Path, settings: Mapping[str, Any], quantization: str | None) -> str | None:
    """Choose the quantisation of the adapter's base in ``folder``: as its ``settings`` say, or by ``quantization``.

    Raises:
        ValueError: the two differ.
        ImportError: bitsandbytes is needed, and not installed.
    """
    was = recorded(settings)
    if None not in (was, quantization) and was != quantization:
        raise ValueError(f"{folder} was trained on a {was} base, and quantization is {quantization}: leave it out")
    if was is not None:
        require_bitsandbytes(f"{folder}, whose base was quantised ({was}),")
    return was or quantization


def keep_layout(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit weights anew for inference on a CPU with AVX-512 BF16.

    The product with packed weights has no gradient, and they stay packed when training goes on: after one pass of the
    teacher every gradient behind the first layer would be missing.
    """
    layers: list[Any] = [module for module in model.modules() if hasattr(module, PACKS)]
    for layer in layers:
        setattr(layer, PACKS, False)
        layer.state_dict()  # unpacks what was packed before


def refuse_twice(name: str, saved: str | None, quantization: str | None) -> None:
    """Refuse, by a ValueError, to quantise the weights of ``name`` that are ``saved`` quantised."""
    if saved is not None and quantization is not None:
        raise ValueError(f"the weights of {name} are saved quantised ({saved}) already: leave quantization out")


def require_adapter(name: str, quantization: str | None) -> None:
    """Refuse, by a ValueError, to train all weights of the model called ``name`` if they are quantised."""
    if quantization is not None:
        raise ValueError(
            f"the weights of {name} are quantised ({quantization}), so they cannot be trained, nor merged as a whole: "
            "train an adapter on them (lora_rank), or take the model in full precision"
        )


def require_bitsandbytes(needed_by: str) -> None:
    """Raise an ImportError that says by what bitsandbytes is needed, if it is not installed."""
    if find_spec("bitsandbytes") is None:
        raise ImportError(f"{needed_by} needs bitsandbytes: pip install 'craft-trainer[quantization]'")
