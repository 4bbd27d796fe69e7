"""Features, targets and terms on tensors that are said to be on a GPU: a tensor that stayed on the CPU is told.

No number is computed. The backward pass is left out: autograd asks for a real GPU.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import LlamaConfig, LlamaForCausalLM

from craft_trainer.anchors.features import TASK_SCALE, TOKEN_SCALE, FeatureSpec, extract, teacher_features
from craft_trainer.losses.distillation import retention_loss
from craft_trainer.losses.terms import TERMS
from craft_trainer.models.families import as_anchored_model
from craft_trainer.optim import gradients
from craft_trainer.training.settings import RetentionSettings

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
KEYS = ("input_ids", "attention_mask", "labels")


def term_of(name):
    return {TERMS[name].configured(RetentionSettings(retention_terms=[name])): 1.0}


@pytest.mark.parametrize("pooling", ["none", "mean_masked"])
def test_nothing_of_a_retention_loss_stays_on_the_cpu(pooling):
    with FakeTensorMode(), torch.device("cuda"):
        network = LlamaForCausalLM(LlamaConfig(vocab_size=40, max_position_embeddings=12, **SIZES))
        model, batch = as_anchored_model(network), {key: torch.ones(4, 12, dtype=torch.long) for key in KEYS}
        spec = FeatureSpec(model.module_path(-1), pooling)
        teacher = teacher_features(model, batch, [spec], task=True)
        student = extract(model, batch, [spec], output=True, task=True)
        scales = {name: torch.ones(()) for name in (spec.column, TOKEN_SCALE, TASK_SCALE)}
        for name in ("hidden", "token_ce", "token_kl", "task"):
            assert retention_loss(student, teacher, scales, term_of(name)).device.type == "cuda"
        both = [[torch.ones_like(one) for one in network.parameters()] for _ in range(2)]
        gradients.gramians(*both, [list(range(len(both[0])))])
        assert {one.device.type for one in gradients.combine(*both, 1.0, 0.5) if one is not None} == {"cuda"}
        left = teacher._replace(hidden={spec.column: torch.ones_like(teacher.hidden[spec.column], device="cpu")})
        with pytest.raises(RuntimeError, match="device"):  # or this test could not fail
            retention_loss(student, left, scales, term_of("hidden"))
