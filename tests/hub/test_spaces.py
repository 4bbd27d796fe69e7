"""A metric in a Space of the double is loaded by its id."""

SCRIPT = b"""\
import datasets
import evaluate


class Agreement(evaluate.Metric):
    def _info(self):
        features = datasets.Features({key: datasets.Value("int64") for key in ("predictions", "references")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"agreement": sum(p == r for p, r in zip(predictions, references)) / len(references)}
"""
LOAD = """\
import evaluate
metric = evaluate.load("org/agreement")
print(metric.compute(predictions=[1, 2, 3, 4], references=[1, 2, 3, 0]))
"""


def test_a_metric_comes_from_a_space(hub, client):
    assert client.python(LOAD).status == 1  # there is none yet
    hub.upload("space", "org/agreement", {"agreement.py": SCRIPT})
    result = client.python(LOAD)
    assert result.out.splitlines()[-1] == "{'agreement': 0.75}", result.err
