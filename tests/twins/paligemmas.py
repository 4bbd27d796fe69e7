"""PaliGemma at the size of a toy: LeRobot's PI0 types hard-code theirs, so what they build is made smaller here."""

import functools
import importlib
from contextlib import contextmanager

import pytest

VOCABULARY = 480
NUM_LAYERS = 3
SIZES = {"gemma_2b": {"width": 24, "mlp_dim": 32}, "gemma_300m": {"width": 16, "mlp_dim": 24}}
ATTENTION = {"num_heads": 8, "num_kv_heads": 1, "head_dim": 4}  # LeRobot's joint attention has 8 heads, always


@contextmanager
def toy_paligemma(tokenizer_folder):
    """Inside, PI0, PI0.5 and PI0-FAST are of toy size, and their preprocessors find a tokenizer without the Hub."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("pi0", "pi05", "pi0_fast"):
            modeling = importlib.import_module(f"lerobot.policies.{kind}.modeling_{kind}")
            patch.setattr(modeling, "get_gemma_config", functools.partial(_gemma, modeling.GemmaConfig))
            for name in ("PaliGemmaForConditionalGenerationWithPiGemma", "PiGemmaForCausalLM"):
                if hasattr(modeling, name):
                    patch.setattr(modeling, name, functools.partial(_smaller, getattr(modeling, name)))
        for kind in ("pi0", "pi05"):
            processing = importlib.import_module(f"lerobot.policies.{kind}.processor_{kind}")
            step = functools.partial(_local_tokenizer, processing.TokenizerProcessorStep, str(tokenizer_folder))
            patch.setattr(processing, "TokenizerProcessorStep", step)
        yield


def _gemma(config_class, variant):
    return config_class(depth=NUM_LAYERS, **SIZES[variant], **ATTENTION)


def _smaller(model_class, config):
    """The model of a configuration whose sizes that LeRobot hard-codes are replaced."""
    if hasattr(config, "vision_config"):
        vision, text = config.vision_config, config.text_config
        vision.hidden_size, vision.intermediate_size, vision.num_attention_heads = 16, 24, 2
        vision.num_hidden_layers, vision.patch_size, vision.projection_dim = 1, 14, text.hidden_size
        vision.image_size = 28
        text.vocab_size = VOCABULARY
        config.image_token_index = VOCABULARY - 1
    else:
        config.vocab_size = VOCABULARY
    return model_class(config=config)


def _local_tokenizer(step_class, folder, *, tokenizer_name, **options):
    del tokenizer_name
    return step_class(tokenizer_name=folder, **options)
