"""A word tokenizer with what the policies ask of theirs, saved in a folder that AutoTokenizer loads."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ["Action", "Task", "State", ":", "|", ",", ";", "-", "push", "open", "the", "red", "puck", "door"]
IMAGE_TOKENS = {
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "image_token": "<image>",
    "end_of_utterance_token": "<end_of_utterance>",
}


def text_tokenizer(num_spare):
    """Words, the numbers 0 to 255, and ``num_spare`` tokens at the end of the vocabulary for actions."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *IMAGE_TOKENS.values()]
    words = [*special, *WORDS, *map(str, range(256)), *(f"<spare{index}>" for index in range(num_spare))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        extra_special_tokens=IMAGE_TOKENS,
    )


def save_text_tokenizer(folder, num_spare=0):
    """Save the tokenizer in ``folder``."""
    text_tokenizer(num_spare).save_pretrained(folder)
    return folder
