"""The lines that ``craft-trainer mcq`` prints."""

from craft_trainer.evaluation.mcq_run import table


def document(name, **metrics):
    return {"model": name, "metrics": metrics, "items": [], "refused": [], "num_items": 1}


def test_counts_are_written_in_full():
    """Seen to fail with 1.235e+04 items."""
    assert "12345" in table(document("a", accuracy=0.5, num_items=12345))


def test_what_guessing_scores_is_told():
    """One of two and one of four."""
    items = [{"log_likelihoods": [0.0] * number, "boundary_ok": True} for number in (2, 4)]
    assert "guessing has accuracy 0.375" in table(document("a", accuracy=0.5) | {"items": items})


def test_long_names_keep_their_ends():
    """Seen to fail with lines as long as both paths."""
    names = [f"/data/{'very/' * 20}outputs/{kind}/checkpoint-100" for kind in ("plain", "craft")]
    lines = table(document(names[0], accuracy=0.5) | {"compare": document(names[1], accuracy=0.25)}).splitlines()
    assert max(map(len, lines)) <= 100
    assert "plain/checkpoint-100" in lines[0]
    assert "craft/checkpoint-100" in lines[0]
    assert lines[1].split() == ["accuracy", "0.5", "0.25"]
