"""What a model must have to be anchored: who lacks some of it is told all of it."""

from typing import Any

import pytest
from torch import nn
from toy import ToyModel

from craft_trainer.models.base import MEMBERS, AnchoredModel, TokenLayout, missing_members
from craft_trainer.models.families import as_anchored_model


def without(*names: str) -> nn.Module:
    """A toy that lacks ``names``."""
    members = {name: value for name, value in vars(ToyModel).items() if name not in names}
    kind: Any = type("Own", (nn.Module,), members | {"__init__": nn.Module.__init__})
    made: nn.Module = kind()
    return made


def test_the_members_are_those_of_the_protocol() -> None:
    listed = {
        *("network", "output_kind", "prepare", "predict", "module_path", "token_layout"),
        *("input_keys", "label_keys", "image_keys", "noise", "packed", "fingerprint"),
    }
    assert set(MEMBERS) == listed
    assert missing_members(ToyModel()) == []


@pytest.mark.parametrize("name", MEMBERS)
def test_one_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(TypeError, match=rf"Own is no whole .*AnchoredModel, it lacks {name}: add it, or wrap"):
        as_anchored_model(without(name))


def test_all_that_are_missing_are_named_in_one_go() -> None:
    with pytest.raises(TypeError, match=r"it lacks predict, noise, fingerprint: add them, or wrap the module in"):
        as_anchored_model(without("noise", "fingerprint", "predict"))


def test_what_comes_from_the_protocol_itself_does_nothing() -> None:
    """Seen to fail: a subclass of the protocol had every member, and its fingerprint was None."""

    class Own(nn.Module, AnchoredModel):
        def token_layout(self, *_: Any) -> TokenLayout:
            return TokenLayout()

    missing = set(MEMBERS) - {"token_layout"}
    assert set(missing_members(Own())) == missing
    with pytest.raises(TypeError, match="it lacks network, output_kind, prepare"):
        as_anchored_model(Own())


def test_a_submodule_may_be_the_network() -> None:
    """Seen to fail: Python's own check of a protocol looks at the class alone."""
    model: Any = without("network")
    assert missing_members(model) == ["network"]
    model.network = nn.Linear(2, 2)
    assert as_anchored_model(model) is model


def test_a_module_that_has_nothing_of_it_is_told_what_there_is() -> None:
    with pytest.raises(TypeError, match=r"Linear cannot be trained with anchors: .* any other module in .*TorchModel"):
        as_anchored_model(nn.Linear(2, 2))
