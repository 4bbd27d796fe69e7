"""How a run is loaded, as code for its card: by the library it is a checkpoint of, without craft_trainer."""

from craft_trainer.hub.facts import RunFacts

LEROBOT = """\
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

place = {place!r}
config = PreTrainedConfig.from_pretrained(place{revision})
policy = get_policy_class(config.type).from_pretrained(place{revision})
preprocessor, postprocessor = make_pre_post_processors(config, pretrained_path=place{pretrained_revision})
"""
LIBRARY = """\
from {library} import {names}

place = {place!r}
model = {loader}.from_pretrained(place{revision})
"""
PROCESSOR = """\
{name} = {processor}.from_pretrained(place{revision})
"""
SENTENCES = """\
from sentence_transformers import {loader}

place = {place!r}
model = {loader}(place{revision})
"""
ADAPTER = """\
from peft import PeftConfig, PeftModel
from transformers import {names}

place = {place!r}
base = {loader}.from_pretrained(PeftConfig.from_pretrained(place{revision}).base_model_name_or_path)
model = PeftModel.from_pretrained(base, place{revision})
"""


def snippet(facts: RunFacts, place: str) -> str | None:
    """Python that loads the run from ``place``, a repository or a folder; None for a model of the user's own."""
    if facts.loader is None:
        return None
    revision = f", revision={facts.revision!r}" if facts.revision else ""
    filled = {"place": place, "revision": revision, "loader": facts.loader}
    if facts.library == "lerobot":
        return LEROBOT.format(**filled, pretrained_revision=revision.replace("revision", "pretrained_revision"))
    if facts.library == "sentence-transformers":  # with its tokenizer
        return SENTENCES.format(**filled)
    names = ", ".join(sorted(name for name in (facts.loader, facts.processor) if name))
    head = ADAPTER if facts.library == "peft" else LIBRARY
    code = head.format(**filled, library="transformers", names=names)
    if facts.processor is not None:
        name = "tokenizer" if facts.processor == "AutoTokenizer" else "processor"
        code += PROCESSOR.format(name=name, processor=facts.processor, revision=revision)
    return code
