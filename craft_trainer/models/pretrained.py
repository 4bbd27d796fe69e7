"""HuggingFace checkpoints as they were saved: models and adapters, with their tokenizers or processors."""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from craft_trainer.hub.resolve_path import CHECKPOINTS, resolve_path
from craft_trainer.models.base import SupportsCheckpointing
from craft_trainer.models.causality import require_causal
from craft_trainer.models.general import base_model
from craft_trainer.models.quantization import keep_layout, loading_options, quantization_of_base, record
from craft_trainer.report.reading import json_object

DTYPES = ("float32", "bfloat16", "float16", "float64")
ADAPTER_CONFIG, CONFIG_FILE = "adapter_config.json", "config.json"
SCALES = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")  # by which an adapter's weights count
WEIGHTS_FILE, ADAPTER_WEIGHTS = "model.safetensors", "adapter_model.safetensors"
FIXED = re.compile(r"(masked_bias|inv_freq)$")  # what older checkpoints hold though the architecture decides it
OTHER_FORMATS = ("*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.tflite", "original/*", *CHECKPOINTS)  # not downloaded


def checked_dtype(dtype: str | None) -> str | None:
    """``dtype`` if it is one, or None; else a ValueError."""
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}: choose {', '.join(DTYPES)}, or leave it out")
    return dtype


def checkpoint_folder(name: str, revision: str | None = None) -> Path:
    """Resolve ``name`` as :func:`craft_trainer.hub.resolve_path.resolve_path` does, without other formats."""
    return resolve_path(name, revision=revision, without=OTHER_FORMATS)


def json_of(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``, empty if there is no such file; a ValueError that names it if it holds none."""
    return json_object(path, "save or download it again") if path.is_file() else {}


def is_adapter(folder: Path) -> bool:
    """True if ``folder`` holds a PEFT adapter."""
    return (folder / ADAPTER_CONFIG).is_file()


def is_policy(folder: Path) -> bool:
    """True if ``folder`` holds a policy of LeRobot, whose config.json has a ``type``, and not a language model.

    Raises:
        FileNotFoundError: it holds neither.
    """
    config = folder / CONFIG_FILE
    if not config.is_file() and not is_adapter(folder):
        raise FileNotFoundError(
            f"{folder} holds no {CONFIG_FILE}: it is not a LeRobot checkpoint, nor a language model"
            f"{checkpoint_inside(folder)}"
        )
    written = json_of(config)
    return "type" in written and "model_type" not in written


def checkpoint_inside(folder: Path) -> str:
    """Name, for a message, where the checkpoint is in a ``folder`` of `lerobot-train`; nothing if there is none."""
    for inside in (folder / "pretrained_model", folder / "checkpoints" / "last" / "pretrained_model"):
        if (inside / CONFIG_FILE).is_file():
            return f"; {inside} is one"
    return ""


def load_model(
    folder: str | Path, dtype: str | None, device: str | None = None, *, quantization: str | None = None
) -> Any:
    """The model in ``folder``, with a head of tokens; ``dtype`` of its weights, as saved if None.

    On ``device`` meta its tensors have names and shapes only, and the CPU is the default. With ``quantization`` (4bit,
    8bit) the weights of its linear layers, without the head, are quantised.

    Raises:
        ValueError: the folder lacks a tensor of the model, or has another one, or the model is of another shape or not
            causal, or its weights are quantised already and are to be again.
        ImportError: the weights are quantised, and bitsandbytes is not installed.
    """
    with readable(Path(folder) / CONFIG_FILE):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)  # by default a terminal is asked
    causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not config.is_encoder_decoder
    if not (causal or _sees(config)):
        raise ValueError(
            f"{folder} holds a {config.model_type}, and commands take causal language models, vision-language models "
            "and policies: train it in a script, with the family that docs/families.md has for its shape"
        )
    kind = AutoModelForImageTextToText if _sees(config) else AutoModelForCausalLM
    model = _whole_model(kind, folder, dtype, device, **loading_options(config, quantization, dtype, folder))
    keep_layout(model)
    if device != "meta":
        require_causal(model, folder)
    return model


def restore(model: nn.Module, folder: str | Path) -> bool:
    """Load the weights in ``folder`` into ``model``, in place, and return whether its family is one that has a way to.

    Trainer takes a HuggingFace checkpoint by the names of its tensors, and skips those that it does not find. But
    ``save_pretrained`` may write other names than the model has, as those of vision-language models.

    Raises:
        ValueError: the folder lacks a tensor of the model, or has another one.
    """
    folder = Path(folder)
    if isinstance(model, SupportsCheckpointing):
        model.load_checkpoint(folder)
    elif isinstance(model, PreTrainedModel) and (folder / CONFIG_FILE).is_file():
        model.load_state_dict(_whole_model(type(model), folder, None).state_dict())
    elif base_model(model) is not model and is_adapter(folder):
        load_whole_adapter(model, folder, trainable=True)
    else:
        return False
    return True


def load_adapter(
    folder: Path, dtype: str | None, *, trainable: bool = False, quantization: str | None = None
) -> tuple[Any, Path]:
    """The PEFT adapter in ``folder`` on its base model, and the folder of the latter.

    The base is quantised as it was when the adapter was trained, or by ``quantization``.

    Raises:
        ImportError: PEFT is not installed, or bitsandbytes, and the base is quantised.
        ValueError: the adapter does not say what its base model is, or is not one of this model, or was trained on one
            that was quantised otherwise.
    """
    base, revision = base_of_adapter(folder)
    quantization = quantization_of_base(folder, json_of(folder / ADAPTER_CONFIG), quantization)
    place = checkpoint_folder(base, revision)
    model = load_model(place, dtype, quantization=quantization)
    model.name_or_path = base
    adapted = with_adapter_of(folder, model, trainable=trainable)
    if quantization is not None:
        adapted.active_peft_config.auto_mapping = record(quantization)
    return adapted, place


def base_of_adapter(folder: Path) -> tuple[str, str | None]:
    """The base of the PEFT adapter in ``folder``: a folder or a Hub repository, and the revision of the latter.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: it does not say so.
    """
    if find_spec("peft") is None:
        raise ImportError(f"{folder} is a PEFT adapter: pip install 'craft-trainer[peft]'")
    settings = json_of(folder / ADAPTER_CONFIG)
    base = settings.get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{folder / ADAPTER_CONFIG}: base_model_name_or_path is missing")
    return str(base), settings.get("revision")


def with_adapter_of(folder: Path, model: nn.Module, *, trainable: bool) -> Any:
    """``model`` with the PEFT adapter in ``folder``, every tensor of it from there.

    Raises:
        ValueError: the adapter is not one of this model.
    """
    from peft import PeftModel

    with loading(folder), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found missing adapter keys")  # an error below
        adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    load_whole_adapter(adapted, folder, trainable=trainable)
    return adapted


def load_processor(model: nn.Module, *folders: str | Path) -> Any:
    """The processor (or tokenizer, of a language model) of ``model``, in the first of ``folders`` that has one.

    Raises:
        FileNotFoundError: none of them has.
    """
    base: Any = base_model(model)
    sees = _sees(base.config)
    errors = []
    for folder in folders:
        try:
            processor = (AutoProcessor if sees else AutoTokenizer).from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # noqa: BLE001  # tokenizers raises nothing narrower for a damaged file
            errors.append(f"{folder}: {error!r}")
            continue
        if _is_whole(processor, sees):
            return processor
        errors.append(f"{folder}: no vocabulary or no image processor")
    kind = "processor" if sees else "tokenizer"
    raise FileNotFoundError(f"no {kind} for the model, save it beside the weights ({'; '.join(errors)})")


def _whole_model(kind: Any, folder: str | Path, dtype: str | None, device: str | None = None, **more: Any) -> Any:
    """The model in ``folder`` as a ``kind``, every tensor of it from there."""
    options = more | {"dtype": dtype or "auto", "output_loading_info": True, "ignore_mismatched_sizes": True}
    options |= {"return_dict": True, "trust_remote_code": False}  # whatever config.json says
    with loading(folder):
        model, found = kind.from_pretrained(folder, device_map=device, **options)
    buffers = [f".{name}" for name, _ in model.named_buffers()]
    others = [name for name in found["unexpected_keys"] if not FIXED.search(name)]
    unexpected = [name for name in others if not any(buffer.endswith(f".{name}") for buffer in buffers)]
    shapes = [f"{name} ({list(saved)} instead of {list(ours)})" for name, saved, ours in found["mismatched_keys"]]
    require_whole(folder, {"missing": found["missing_keys"], "unexpected": unexpected, "of another shape": shapes})
    return model


def load_whole_adapter(model: Any, folder: Path, *, trainable: bool) -> None:
    """Load the weights of the adapter in ``folder`` into that of the PEFT model; a ValueError unless they are its."""
    for name, was in json_of(folder / ADAPTER_CONFIG).items():
        now = getattr(model.active_peft_config, name, None)
        if name in SCALES and (was or None) != (now or None):  # PEFT takes the weights alone
            raise ValueError(f"{name} is {now}, and the adapter in {folder} was trained with {was}: give {was}")
    with loading(folder):
        found = model.load_adapter(str(folder), model.active_adapters[0], is_trainable=trainable)
    trained_prompt = {"prompt_embeddings"} if model.active_peft_config.is_prompt_learning else set()  # PEFT is strict
    unexpected = [name for name in found.unexpected_keys if name not in trained_prompt]
    require_whole(folder, {"missing": found.missing_keys, "unexpected": unexpected})


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Errors inside, of a damaged description of a model, say which ``file`` they are about."""
    try:
        yield
    except Exception as error:  # transformers and LeRobot take a file's keys and types for granted
        if isinstance(error, OSError):
            raise
        if isinstance(error, ImportError):
            raise ImportError(f"{file}: {error}") from error
        reason = str(error) if isinstance(error, ValueError) else repr(error)
        raise ValueError(f"{file} cannot be read ({reason}): save or download it again") from error


@contextmanager
def loading(folder: str | Path) -> Iterator[None]:
    """Errors inside, of damaged files and of tensors of another shape, say which folder they are about."""
    try:
        with tensors_only(f"the weights in {folder}"):
            yield
    except (AssertionError, AttributeError, EOFError, LookupError, RuntimeError, SafetensorError, TypeError) as error:
        raise ValueError(f"the weights in {folder} cannot be loaded: {error}") from error


@contextmanager
def tensors_only(what: str) -> Iterator[None]:
    """Errors inside, of a pickle that is more than tensors, say ``what`` it is in, and the way out."""
    try:
        yield
    except UnpicklingError as error:
        raise ValueError(
            f"{what}: a pickle (.bin, .pt, .pth) that holds more than tensors, or is damaged, is not executed. Take "
            "weights in safetensors; where you trust a pickle, load it by torch and save it with save_pretrained(…)"
        ) from error


def require_whole(folder: str | Path, faults: Mapping[str, Iterable[str]]) -> None:
    """Raise a ValueError that names the tensors in ``faults``, by what is wrong with them, if there are any."""
    said = []
    for fault, found in faults.items():
        names = sorted(found)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        said += [f"{fault} {', '.join(names[:3])}{more}"] if names else []
    if said:
        raise ValueError(
            f"the weights in {folder} are not those of the model that its configuration describes: {'; '.join(said)}. "
            "Save or download the checkpoint again, or correct its configuration"
        )


def _sees(config: Any) -> bool:
    return config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def _is_whole(processor: Any, sees: bool) -> bool:
    """Without its files transformers makes a tokenizer of special tokens alone, and no error."""
    tokenizer = getattr(processor, "tokenizer", processor)
    return len(tokenizer) > len(tokenizer.added_tokens_decoder) and (not sees or hasattr(processor, "image_processor"))
