"""Hold the task loss on the anchors: experience replay."""

import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from craft_trainer.anchors.features import AnchorBatch
from craft_trainer.losses.loss import RetentionLoss
from craft_trainer.losses.term import Need
from craft_trainer.models.base import AnchoredModel


class ReplayLoss(RetentionLoss):
    """L_task(anchors), the task loss on the anchors' own targets; the teacher plays no part.

    Source: experience replay, Chaudhry et al. 2019, arXiv 1902.10486, Alg. 1.
    """

    needs = Need.LABELS

    def __call__(self, model: AnchoredModel, anchors: AnchorBatch) -> Float[Tensor, " 1"]:
        """Compute the model's loss on the anchors, in training mode like that of the task.

        Its mean over processes is the mean over all labels: a process with fewer of them counts for less.
        """
        labels = anchors.inputs.get("labels")
        if labels is None or not dist.is_initialized():
            return task_loss(model, anchors).view(1)
        count = (labels[..., 1:] != -100).sum().float()
        dist.all_reduce(count)
        inputs = anchors.inputs | {"num_items_in_batch": count / dist.get_world_size()}
        return task_loss(model, anchors._replace(inputs=inputs)).view(1)


def task_loss(model: AnchoredModel, anchors: AnchorBatch) -> Float[Tensor, ""]:
    """Compute the task loss on the anchors' inputs and targets.

    Raises:
        ValueError: the anchors hold no targets, or the model computes no loss of its own.
    """
    inputs, network = anchors.inputs, model.network
    if isinstance(model, nn.Module):  # what Trainer trains, loss included: a policy, any module of torch
        found = model(**inputs)
    elif isinstance(network, nn.Sequential):  # a SentenceTransformer: its trainer knows the loss
        found = {}
    else:
        found = network(**model.prepare(inputs))
    loss: Tensor | None = found.get("loss")
    if loss is None:
        raise ValueError(
            f"the anchors hold no targets that {type(network).__name__} computes a loss from, only "
            f"{', '.join(inputs)}: build them from samples with labels, or choose a method that needs none"
        )
    return loss
