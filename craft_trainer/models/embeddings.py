"""Tokens and positions that a language model has a row for."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from craft_trainer.models.general import base_model

OF_POSITIONS = ("position", "wpe")  # in the names of tables of them, which models with rotations or distances lack


class Embeddings(NamedTuple):
    """The number of rows.

    Attributes:
        tokens: of the vocabulary.
        positions: tokens that a sequence may have, behind a prompt trained by PEFT; None where positions are computed.
    """

    tokens: int
    positions: int | None

    @classmethod
    def of(cls, model: nn.Module) -> "Embeddings":
        """Those of a ``PreTrainedModel`` with a decoder of text, or of a ``PeftModel`` of one."""
        base: Any = base_model(model)
        decoder, limit = base.get_decoder(), getattr(base.config.get_text_config(), "max_position_embeddings", None)
        tables = [
            len(table) - 1 - (getattr(module, "padding_idx", None) or -1)  # RoBERTa counts from behind its padding
            for path, module in decoder.named_modules()
            for name, table in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            if table.ndim == 2
            and len(table) > 1
            and any(part in f"{path}.{name}" for part in OF_POSITIONS)
            and not hasattr(module, "make_weights")  # XGLM's grows
        ]
        prompt = getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", None) or 0
        positions = min([limit, *tables]) - prompt if limit and tables else None
        return cls(len(base.get_input_embeddings().weight), positions)

    def check(self, ids: Sequence[int], tokenizer: Any) -> None:
        """Raise a ValueError if there is a token of a sequence, or a place in it, without a row."""
        largest = max(ids)
        if largest >= self.tokens:
            raise ValueError(
                f"its token {tokenizer.convert_ids_to_tokens(largest)!r} has the number {largest}, but the model has "
                f"embeddings of {self.tokens} tokens: take the tokenizer that belongs to the model, or give the model "
                "as many with resize_token_embeddings"
            )
        if self.positions is not None and len(ids) > self.positions:
            raise ValueError(
                f"it has {len(ids)} tokens, but the model has embeddings of {self.positions} positions: lower "
                f"max_length to {self.positions}"
            )
