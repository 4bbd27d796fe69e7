"""Language models by names of the Hub: model, texts at a revision, anchors pushed and pulled, training on them."""

import json

import pytest
from lm_folders import save_lines, save_tiny_lm

UPLOAD = """\
from huggingface_hub import HfApi
hub = HfApi()
hub.create_repo("org/lm")
hub.upload_folder(repo_id="org/lm", folder_path={model!r})
hub.create_repo("org/texts", repo_type="dataset")
for revision in ("v1", "main"):
    hub.upload_folder(repo_id="org/texts", folder_path={data!r} + "/" + revision, repo_type="dataset")
    if revision != "main":
        hub.create_tag("org/texts", repo_type="dataset", tag=revision)
"""


@pytest.mark.slow
@pytest.mark.parametrize("client", ["lfs"], indirect=True)
def test_everything_by_name(hub, client, tmp_path):
    """Texts of the tag, not of the newest commit; an adapter of a model of the Hub says its name, not the place of the
    download, and its card the data. Seen to fail with the folder of the download as the base, with anchors opened as a
    folder only, and with a card that does not know what the model was trained on."""
    save_tiny_lm(tmp_path / "model")
    for revision, count in (("v1", 12), ("main", 3)):
        (tmp_path / "data" / revision).mkdir(parents=True)
        rows = [{"text": "hello world " * (1 + n % 3) + str(n)} for n in range(count)]
        save_lines(tmp_path / "data" / revision / "train.jsonl", rows)
    uploaded = client.python(UPLOAD.format(model=str(tmp_path / "model"), data=str(tmp_path / "data")))
    assert uploaded.status == 0, uploaded.err
    words = ["--teacher", "org/lm", "--dataset", "org/texts@v1", "--anchors", 12, "--batch_size", 4, "--device", "cpu"]
    built = client.command("cache", "build", *words, "--output_dir", tmp_path / "cache")
    assert built.status == 0, built.err
    assert "12 samples of org/texts (train)" in built.out
    assert client.command("cache", "push", "--cache", tmp_path / "cache", "--repo", "org/anchors").status == 0
    pulled = client.command("cache", "pull", "--repo", "org/anchors", "--output_dir", tmp_path / "pulled")
    assert pulled.status == 0, pulled.err
    verified = client.command(
        "cache", "verify", "--cache", tmp_path / "pulled", "--teacher", "org/lm", "--device", "cpu"
    )
    assert "ok  tokens recomputed on 12 anchors" in verified.out, verified.err
    options = ["--max_steps", 2, "--use_cpu", "--report_to", "none", "--save_strategy", "no", "--lora_rank", 2]
    options += ["--anchors", "org/anchors@main", "--output_dir", tmp_path / "adapter"]
    options += ["--learned_inputs", "allow"]  # the same data is known and learned
    trained = client.command("train", "--model", "org/lm", "--dataset", "org/texts@v1", *options)
    assert trained.status == 0, trained.err
    settings = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "org/lm"
    card = (tmp_path / "adapter/README.md").read_text()
    assert "base_model: org/lm\n" in card
    assert "datasets:\n- org/texts\n" in card
    assert "[org/texts@v1](https://huggingface.co/datasets/org/texts)" in card
