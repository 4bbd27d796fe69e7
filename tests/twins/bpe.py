"""A byte-level BPE tokenizer, trained on the spot: of GPT-2's kind, so words are merged across what a person sees."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "Question: What happens to you if you eat watermelon seeds?\nAnswer: The seeds pass through your digestive system",
    "Question: Where is the puck?\nAnswer: The red puck is left of the goal, hello world",
    "Question: Is the gripper open?\nAnswer: Yes, the gripper is open, the answer is yes",
] * 10


def bpe_tokenizer(*, bos=False, eos=False, vocabulary=400):
    """Special tokens <bos> (0), <eos> (1) and <pad> (2), of which ``bos`` is added in front and ``eos`` behind."""
    special = ["<bos>", "<eos>", "<pad>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if bos or eos:
        template = " ".join(["<bos>"] * bos + ["$A"] + ["<eos>"] * eos)
        ids = [("<bos>", 0), ("<eos>", 1)]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
