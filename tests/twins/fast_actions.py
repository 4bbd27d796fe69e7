"""A small action tokenizer of the kind of FAST (arXiv 2501.09747): DCT over time, rounding, byte-pair encoding.

Saved in a folder, it brings this file along, so that ``AutoProcessor.from_pretrained(folder, trust_remote_code=True)``
loads it; LeRobot decodes with its ``bpe_tokenizer``, ``min_token`` and ``scale``.
"""

import numpy as np
from scipy.fft import dct, idct
from tokenizers import Tokenizer, decoders, models, trainers
from transformers import PreTrainedTokenizerFast
from transformers.processing_utils import ProcessorMixin

FIRST_LETTER = 0x4E00  # away from blanks and control characters, which tokenizers strip
LARGEST = 40  # coefficients beyond ±40 are clipped


class FastActions(ProcessorMixin):
    """Token ids of chunks of actions, and back."""

    def __init__(self, bpe_tokenizer, scale=8.0):
        self.scale = scale
        self.min_token = -LARGEST - FIRST_LETTER
        super().__init__(bpe_tokenizer)

    def __call__(self, chunks):
        """Token ids of each chunk of actions [batch, time, dim]."""
        return [self.bpe_tokenizer(text)["input_ids"] for text in spell(np.asarray(chunks), self.scale)]

    def decode(self, token_ids, time_horizon, action_dim):
        """The chunk of actions [time, dim] that some tokens stand for."""
        letters = self.bpe_tokenizer.decode(token_ids)
        coefficients = np.array([ord(letter) for letter in letters]) + self.min_token
        return idct(coefficients.reshape(time_horizon, action_dim) / self.scale, axis=0, norm="ortho")


def spell(chunks, scale):
    """Each chunk as a text: a letter per rounded coefficient, the slow ones first."""
    rounded = np.clip(np.rint(dct(chunks, axis=1, norm="ortho") * scale), -LARGEST, LARGEST).astype(int)
    return ["".join(chr(FIRST_LETTER + LARGEST + value) for value in chunk.flatten()) for chunk in rounded]


def save_fast_actions(folder, chunks, scale=8.0, vocab_size=120):
    """Fit the byte-pair encoding to chunks of actions [chunks, time, dim] and save the tokenizer in ``folder``."""
    alphabet = [chr(FIRST_LETTER + index) for index in range(2 * LARGEST + 1)]
    bpe = Tokenizer(models.BPE())
    bpe.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(spell(np.asarray(chunks), scale), trainer)
    FastActions.register_for_auto_class()
    FastActions(PreTrainedTokenizerFast(tokenizer_object=bpe), scale).save_pretrained(folder)
    return folder
