"""Log what the model still knows as a curve: multiple choice while it is being trained."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from craft_trainer.evaluation.choices.opening import reader_of
from craft_trainer.evaluation.mcq import McqSettings, encode_all, score_questions
from craft_trainer.evaluation.questions import Question
from craft_trainer.hub.run_folder import step_of_weights

LOGGED = ("accuracy", "accuracy_per_char", "margin_gold", "brier")


class KnownAtStart(TrainerCallback, ExportableState):  # type: ignore[misc]  # transformers has no types
    """The questions that were right before training, saved with checkpoints, restored by resuming.

    Attributes:
        right: their ids; None as long as nothing was asked.
        asked: a digest of the questions and of how they were asked.
    """

    def __init__(self, right: Sequence[str] | None = None, asked: str = "") -> None:
        self.right = None if right is None else list(right)
        self.asked = asked

    def state(self) -> dict[str, dict[str, Any]]:
        """The state that Trainer writes into ``trainer_state.json``."""
        return {"args": {"right": self.right, "asked": self.asked}, "attributes": {}}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take them from the checkpoint that is resumed, if it was asked there."""
        del args, control
        saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.right, self.asked = saved["args"]["right"], saved["args"]["asked"]


class McqCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Scores a small set of questions at the start, every ``steps`` optimizer steps, and at the last.

    Logs ``mcq/accuracy``, ``mcq/accuracy_per_char``, ``mcq/margin_gold`` (nats), ``mcq/brier`` and ``mcq/kept``, the
    fraction of what was right at the start that is right still, to wherever the trainer logs.

    >>> trainer.add_callback(McqCallback(trainer, tokenizer, questions, steps=100))  # doctest: +SKIP

    Args:
        trainer: the trainer it is added to; its model is scored as it is, in evaluation mode.
        processor: the tokenizer of a language model, the processor of a vision-language model; None for a policy.
        questions: from :func:`craft_trainer.evaluation.questions.read_questions`.
        steps: optimizer steps between two scorings, ≥ 1.
        settings: how the questions are asked.

    Raises:
        ValueError: ``steps`` is below 1, a question cannot be taken by the model, the model is spread over processes,
            or the trainer has such a callback already.
    """

    def __init__(
        self,
        trainer: Trainer,
        processor: Any,
        questions: Sequence[Question],
        *,
        steps: int,
        settings: McqSettings | None = None,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps is {steps}: questions are asked every 1 or more optimizer steps")
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError("questions cannot be asked of a model that is spread over processes (FSDP, DeepSpeed)")
        if any(isinstance(one, KnownAtStart) for one in trainer.callback_handler.callbacks):
            raise ValueError("this trainer asks questions already: put all of them into one McqCallback")
        self._trainer = trainer
        self._processor = processor
        self._questions = list(questions)
        self._steps = steps
        self._settings = settings or McqSettings(pmi=False)
        trainer.add_callback(KnownAtStart())
        self._last_step = -1

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask the questions before training."""
        del args, control
        self._ask(state.global_step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask at the last step, unless an earlier one's weights have been loaded as the best."""
        del control
        if step_of_weights(args, state) == state.global_step:
            self._ask(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Every so often."""
        del args, control
        if state.global_step % self._steps == 0:
            self._ask(state.global_step)

    def _ask(self, step: int) -> None:
        if step == self._last_step:
            return
        self._last_step = step
        model = self._trainer.accelerator.unwrap_model(self._trainer.model)
        with _in_own_precision(model), reader_of(model, self._processor) as reader:
            encoded = encode_all(reader, self._questions, self._settings.style)
            if encoded.refused:
                one = encoded.refused[0]
                raise ValueError(f"question {one.id} (row {one.row}): {one.reason}")
            scored = score_questions(reader, encoded, self._settings)
        right = {item["id"] for item in scored["items"] if item["correct"]}
        known = next(one for one in self._trainer.callback_handler.callbacks if isinstance(one, KnownAtStart))
        asked = encoded.digest(self._settings)
        if known.right is None:
            known.right, known.asked = sorted(right), asked
        if known.asked != asked:
            raise ValueError(
                "this run was begun with other questions, or asked them otherwise, so mcq/kept would compare two sets "
                "of questions: resume with those it was begun with, or leave McqCallback out"
            )
        start = set(known.right)
        kept = {"mcq/kept": len(right & start) / len(start)} if start else {}
        self._trainer.log({f"mcq/{name}": scored["metrics"][name] for name in LOGGED} | kept)


@contextmanager
def _in_own_precision(model: Any) -> Iterator[None]:
    """Inside, ``model`` computes in the number type of its weights, not in that of mixed-precision training."""
    wrapped = vars(model).get("forward")
    if wrapped is None or "_original_forward" not in vars(model):  # what accelerate leaves where it wraps
        yield
        return
    model.forward = model._original_forward
    try:
        yield
    finally:
        model.forward = wrapped
