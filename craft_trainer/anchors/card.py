"""The README of an anchor cache, which is its card on the Hub."""

from collections.abc import Mapping

from torch import Tensor

from craft_trainer.anchors.provenance import DIGESTS, Provenance, public
from craft_trainer.hub.readme import signed
from craft_trainer.report.wording import Markdown, code, in_markdown

HEADER = {
    "tags": ["craft_trainer", "continual-learning", "anchors"],
    "configs": [{"config_name": "default", "data_files": "*.arrow"}],
}
PAGE = """\
# Anchors

Samples of tasks that a model already knows, with what its teacher makes of them. Fine-tuning with
`craft-trainer train --anchors FOLDER` keeps the student close to the teacher on them.

| | |
|---|---|
{made}

| old task | anchors |
|---|---:|
{groups}

| feature | mean | variance |
|---|---:|---:|
{scales}

| column | bytes per anchor |
|---|---:|
{sizes}

`craft-trainer cache verify --cache FOLDER` checks the bytes of {files}.
Their checksums are in `anchors.json`; its fingerprint covers these and what decides them, not places and
versions. This page is not checked. Fingerprint:
`{fingerprint}`
"""


def card(provenance: Provenance, statistics: Mapping[str, Tensor]) -> str:
    """Say what the cache was made from, what it holds, and how to use it, as a dataset card."""
    data, storage = provenance.data, provenance.storage
    num_anchors = sum(provenance.groups.values())
    made = {
        **_teachers(provenance),
        "samples": f"{num_anchors} of the {data['frames']} of {public(data['dataset'])}"
        + (f" at revision {data['revision']}" if data["revision"] else ""),
        "inputs": storage["inputs"],
        "labels": ", ".join(storage["labels"]) or "none",
        "features": storage["dtype"],
        "tokens kept per position, of a teacher that predicts tokens": storage["num_tokens"],
        "made with": ", ".join(f"{name} {version}" for name, version in provenance.versions.items()),
    }
    named = {key.removeprefix("mean/") for key in statistics if key.startswith("mean/")}
    scales = {
        code(name): [f"{statistics[f'{kind}/{name}'].mean():.4g}" for kind in ("mean", "variance")] for name in named
    }
    page = PAGE.format(
        made=_rows(made),
        groups=_rows(provenance.groups),
        scales="\n".join(f"| {name} | {' | '.join(scales[name])} |" for name in sorted(scales)),
        sizes=_rows({code(name): f"{size / num_anchors:,.0f}" for name, size in provenance.sizes.items()}),
        files=", ".join(map(code, sorted(provenance.files))),
        fingerprint=provenance.compute_fingerprint(),
    )
    return signed(HEADER, page, before=None)


def _teachers(provenance: Provenance) -> dict[str, str]:
    """A row for each teacher, with its share of the anchors if there are several."""
    rows: dict[str, str] = {}
    for number, teacher in enumerate(provenance.teachers, start=1):
        several = len(provenance.teachers) > 1
        name = f"teacher {number}, of {teacher['anchors']} anchors" if several else "teacher"
        digests = ", ".join(f"{part} {code(teacher[part][:12])}" for part in DIGESTS if teacher.get(part))
        rows[name] = Markdown(f"{in_markdown(public(teacher['path']))}: {digests}")
    return rows


def _rows(values: Mapping[str, object]) -> str:
    texts = {name: value if isinstance(value, str) else str(value) for name, value in values.items()}
    return "\n".join(f"| {in_markdown(name)} | {in_markdown(text)} |" for name, text in texts.items())
