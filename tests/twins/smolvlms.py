"""SmolVLM at the size of a toy: a folder with a configuration and a processor, as SmolVLA wants it."""

from texts import text_tokenizer
from transformers import SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor


def save_smolvlm(folder):
    """Save configuration and processor of a SmolVLM with three layers in ``folder``."""
    tokenizer = text_tokenizer(num_spare=0)
    text = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    tokens = {"image_token_id": tokenizer.convert_tokens_to_ids("<image>"), "pad_token_id": 0}
    SmolVLMConfig(text_config=text, vision_config=vision, scale_factor=2, **tokens).save_pretrained(folder)
    images = SmolVLMImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = SmolVLMProcessor(images, tokenizer, SmolVLMVideoProcessor(), image_seq_len=4)
    processor.save_pretrained(folder)
    return folder
