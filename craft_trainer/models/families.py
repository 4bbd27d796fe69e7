"""Find the family of a model: the one place that knows them all, except for those that must be wrapped."""

from typing import cast

from torch import nn
from transformers import PreTrainedModel

from craft_trainer.models.base import AnchoredModel, SupportsCheckpointing, missing_members, require_whole_model
from craft_trainer.models.causal_lm import CausalLM
from craft_trainer.models.general import GeneralModel, base_model, can_be_general, encoder_of
from craft_trainer.models.vision_language import ENTRIES, VisionLanguage


def as_anchored_model(model: nn.Module) -> AnchoredModel:
    """Give ``model`` as an :class:`AnchoredModel`: itself, or a view of a HuggingFace model (PEFT adapters included).

    Of HuggingFace models these are causal language models, vision-language models of the types that are known,
    encoder–decoders, encoders of one kind of input, with a head (of classes, of masked tokens) or none, a text's beside
    a picture's; and ``SentenceTransformer``.

    Raises:
        TypeError: ``model`` cannot be anchored as it is, or lacks members of :class:`AnchoredModel`.
    """
    require_adapter_inside(model)
    if not missing_members(model):
        return cast(AnchoredModel, model)
    require_whole_model(model)
    base = base_model(model)
    peft_config = getattr(model, "active_peft_config", None)
    if peft_config is not None and peft_config.is_prompt_learning:
        raise TypeError(f"{peft_config.peft_type} trains a prompt, which the retention pass does not see: use LoRA")
    if isinstance(base, PreTrainedModel) and _predicts_next_tokens(base):
        if base.config.get_text_config() is base.config:
            return CausalLM(model)
        if base.config.model_type in ENTRIES:
            return VisionLanguage(model)
    elif can_be_general(encoder_of(base)):
        return GeneralModel(model)
    raise TypeError(
        f"{type(model).__name__} cannot be trained with anchors: wrap a LeRobot policy in "
        "craft_trainer.models.lerobot.PolicyModel and any other module in craft_trainer.models.torch_model.TorchModel, "
        "pass a HuggingFace causal language model, encoder–decoder, vision-language model "
        f"({', '.join(sorted(ENTRIES))}) or encoder (of one kind of input, or a text's beside a picture's), or a "
        "SentenceTransformer of texts that pools their prompts too, or implement "
        "craft_trainer.models.base.AnchoredModel"
    )


def require_adapter_inside(model: nn.Module) -> None:
    """Refuse, by a TypeError, a ``PeftModel`` around a model that has a checkpoint format of its own.

    PEFT would save it in PEFT's way alone, of which the format's own loaders know nothing.
    """
    base = base_model(model)
    if base is not model and isinstance(base, SupportsCheckpointing) and not isinstance(base, PreTrainedModel):
        name = type(base).__name__
        raise TypeError(
            f"the PEFT adapter is around a {name}, whose checkpoints would be PEFT's alone: put it inside, by "
            "PolicyModel(get_peft_model(policy, config), preprocessor, postprocessor) or add_adapter, or by "
            "TorchModel(get_peft_model(network, config), ...)"
        )


def _predicts_next_tokens(model: PreTrainedModel) -> bool:
    """A decoder with a head of tokens, without an encoder of text."""
    generates = model.can_generate() and model.get_output_embeddings() is not None
    return generates and not model.config.is_encoder_decoder
