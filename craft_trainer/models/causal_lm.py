"""HuggingFace causal language models, with or without PEFT adapters, as the anchors see them."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from craft_trainer.models.base import Batch
from craft_trainer.models.configuration import module_configurations
from craft_trainer.models.general import GeneralModel
from craft_trainer.models.stacks import Stack, arguments
from craft_trainer.models.task_loss import TaskLoss, next_token_losses


class CausalLM(GeneralModel):
    """A view of a causal LM: a ``PreTrainedModel`` with a language-modelling head, or a ``PeftModel`` of one.

    A batch holds ``input_ids`` and ``attention_mask`` [batch tokens], ``position_ids`` where the model is not to count
    them itself, and ``labels`` where there is a task loss.
    """

    @property
    def output_kind(self) -> str:
        """A language model's output are token logits."""
        return "logits"

    def prepare(self, batch: Batch) -> Batch:
        """Samples are tokens already."""
        return batch

    def predict(self, inputs: Batch) -> Float[Tensor, "batch tokens vocabulary"]:
        """Logits of the next token at every position."""
        read = {key: inputs[key] for key in self.input_keys() if key in inputs and key != "labels"}
        logits: Tensor = self.wrapper(**read, use_cache=False).logits
        return logits

    def input_keys(self) -> list[str]:
        """Keys of a sample that the model reads."""
        positions = ["position_ids"] if "position_ids" in arguments(self._encoder) else []
        return ["input_ids", "attention_mask", *positions, "labels"]

    @property
    def task_loss(self) -> TaskLoss:
        """The cross-entropy of the next token."""
        return TaskLoss(lambda inputs, logits: next_token_losses(inputs["labels"], logits), "mean entropy")

    def _configuration(self) -> dict[str, Any]:
        """The configuration that decides the logits beside the weights."""
        return module_configurations(self._model)

    def _find_stacks(self) -> list[Stack]:
        """The decoder of tokens: a model may have a tower for images beside it, with as many layers."""
        return [Stack(self._encoder.get_decoder(), self._encoder.config.get_text_config(), "input")]
