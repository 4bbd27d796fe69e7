"""YAML gives defaults, the command line overrides them, and what is not understood names the nearest known word."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from craft_trainer.cli.arguments import parse_all
from craft_trainer.cli.hints import nearest
from craft_trainer.cli.main import main
from craft_trainer.options import json_mapping, option, split_list
from craft_trainer.training.config import CraftConfig


@dataclass
class Recipe:
    dish: str = option("what is cooked")
    minutes: int = option("how long", 10)
    salt: float = option("grams", 0.5)
    vegan: bool = option("without animals", False)
    herbs: list[str] = option("which", ["basil"])
    spices: list[float] = option("grams of each", [1.0, 2.0])
    oven: dict | str | None = option("settings", None)  # type: ignore[type-arg]


@dataclass
class Table:
    guests: int = option("how many", 2)


def cook(*argv: str) -> Recipe:
    (recipe,) = parse_all("cook", "craft-trainer cook --dish soup", [Recipe], argv)
    assert isinstance(recipe, Recipe)
    return recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    """Writes a YAML file and returns the words ``--config FILE``."""

    def write(text: str) -> tuple[str, str]:
        (tmp_path / "recipe.yaml").write_text(text)
        return "--config", str(tmp_path / "recipe.yaml")

    return write


def test_without_a_file_the_defaults_hold() -> None:
    assert cook("--dish", "soup") == Recipe("soup", 10, 0.5, False, ["basil"], [1.0, 2.0], None)


def test_list_defaults_are_not_shared() -> None:
    cook("--dish", "soup").herbs.append("mint")
    assert cook("--dish", "soup").herbs == ["basil"]


def test_a_file_gives_defaults_and_the_command_line_overrides(recipe: Any) -> None:
    config = recipe("dish: stew\nminutes: 90\nvegan: true\nherbs: [thyme, sage]\noven: {heat: 180, fan: false}\n")
    assert cook(*config) == Recipe("stew", 90, 0.5, True, ["thyme", "sage"], [1.0, 2.0], {"heat": 180, "fan": False})
    changed = cook("--minutes", "5", *config, "--herbs", "mint", "--vegan", "false", "--dish", "tea")
    assert changed == Recipe("tea", 5, 0.5, False, ["mint"], [1.0, 2.0], {"heat": 180, "fan": False})


def test_a_required_key_may_come_from_the_file_alone(recipe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cook(*recipe("dish: stew")).dish == "stew"
    with pytest.raises(SystemExit) as ended:
        cook(*recipe("minutes: 5"))
    assert ended.value.code == 2
    assert "--dish" in capsys.readouterr().err


def test_numbers_yaml_takes_for_strings_are_numbers(recipe: Any) -> None:
    """YAML 1.1 reads 1e-3 as a string: it has no point."""
    salt = cook(*recipe("dish: stew\nsalt: 1e-3")).salt
    assert salt == 0.001
    assert isinstance(salt, float)


def test_a_value_of_another_type_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cook("--dish", "stew", "--minutes", "soon")
    assert ended.value.code == 2
    assert "argument --minutes: invalid int value: 'soon'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dish: stew\nminutes: soon", "argument --minutes: invalid int value: 'soon'"),
        ("dish: stew\nspices: [1, hot]", "argument --spices: invalid number value: 'hot'"),
        ("dish: stew\nvegan: perhaps", "argument --vegan: .*neither true nor false"),
        ("dish: stew\nminutes: [5]", r"argument --minutes: invalid int value: \[5\]"),
        ("dish: [soup, stew]", r"argument --dish: \['soup', 'stew'\] is not one value"),
        ("dish: {}", r"argument --dish: \{\} is not one value"),
        ("dish: {soup: hot}", r"argument --dish: \{'soup': 'hot'\} is not one value"),
        ("herbs: {basil: fresh}", r"argument --herbs: \{'basil': 'fresh'\} is not one value"),
    ],
)
def test_a_value_of_another_type_in_the_file_is_refused_by_file_and_key(recipe: Any, text: str, message: str) -> None:
    """Seen to fail when a list was several words of a command line: `no option stew`, and no word of the file."""
    with pytest.raises(ValueError, match=f"recipe.yaml: {message}"):
        cook(*recipe(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dish: 7", {"dish": "7"}),
        ("dish: yes", {"dish": "True"}),
        ("dish: stew\nminutes: '5'", {"minutes": 5}),
        ("dish: stew\nsalt: 2", {"salt": 2.0}),
        ("dish: stew\nvegan: 1", {"vegan": True}),
        ("dish: stew\nherbs: mint", {"herbs": ["mint"]}),
        ("dish: stew\nherbs: [1, -2]", {"herbs": ["1", "-2"]}),
        ("dish: stew\nspices: [1, 1e-3]", {"spices": [1.0, 0.001]}),
        ("dish: stew\noven: '{\"heat\": 1}'", {"oven": '{"heat": 1}'}),
    ],
)
def test_a_value_of_the_file_has_the_type_that_words_would_give_it(
    recipe: Any, text: str, expected: dict[str, Any]
) -> None:
    """Seen to fail with the values of YAML as they are."""
    filled = vars(cook(*recipe(text)))
    found = {name: filled[name] for name in expected}
    assert found == expected
    assert [type(value) for value in found.values()] == [type(value) for value in expected.values()]


def test_a_choice_that_there_is_not_is_refused_by_file_and_key(recipe: Any) -> None:
    with pytest.raises(ValueError, match=r"recipe.yaml: argument --save_strategy.*'never' is not one of no, steps"):
        parse_all("train", "", [CraftConfig], recipe("save_strategy: never"))


def test_an_empty_file_changes_nothing(recipe: Any) -> None:
    assert cook(*recipe("# nothing yet\n"), "--dish", "soup") == cook("--dish", "soup")


def test_an_unknown_key_of_the_file_names_the_nearest(recipe: Any) -> None:
    with pytest.raises(ValueError, match=r"recipe.yaml: unknown key 'minuts': did you mean 'minutes'\?"):
        cook(*recipe("dish: stew\nminuts: 5"))


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [("dish: stew\nminutes: 5\ndish: tea", 3, "dish"), ("dish: tea\noven: {a: 1, a: 2}", 2, "a")],
)
def test_a_key_that_stands_twice_is_refused_with_its_line(recipe: Any, text: str, line: int, key: str) -> None:
    """Seen to fail with PyYAML's own loader, which takes the last one."""
    with pytest.raises(ValueError, match=rf"recipe.yaml, line {line}: '{key}' stands in line \d as well: keep one"):
        cook(*recipe(text))


def test_keys_of_a_merged_mapping_may_be_set_again(recipe: Any) -> None:
    assert cook(*recipe("dish: stew\noven: {<<: {a: 1, b: 2}, a: 3}")).oven == {"a": 3, "b": 2}


def test_an_option_of_the_original_project_names_ours(recipe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Both spellings of a line, and a file. Seen to fail with the nearest name, or none."""
    for words in (["--num_samples", "3"], ["--num_samples=3"], ["num_samples=3"]):
        with pytest.raises(SystemExit):
            cook("--dish", "stew", *words)
        assert (
            "num_samples: it is an option of the original project. Here: `cache build --anchors`"
            in capsys.readouterr().err
        )
    with pytest.raises(ValueError, match=r"unknown key 'checkpoint_path': .* Here: `mcq --model`"):
        cook(*recipe("dish: stew\ncheckpoint_path: x"))


@pytest.mark.parametrize("argv", [["craft.enabled=true"], ["--minutes", "3", "craft.enabled=true"]])
def test_a_loose_word_of_the_original_is_answered_before_what_is_missing(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Hydra's spelling. Seen to fail: "the following arguments are required: --dish"."""
    with pytest.raises(SystemExit):
        cook(*argv)
    assert "no option craft.enabled: it is an option of the original project" in capsys.readouterr().err


def test_a_value_that_reads_like_one_is_a_value() -> None:
    """A report's run may be named so: ``--run steps=outputs/a``."""
    assert cook("--dish", "stew", "--herbs", "basil", "steps=1").herbs == ["basil", "steps=1"]


@pytest.mark.parametrize("words", [["--oven", "null"], ["--oven=null"], ["--oven", ""], ["--oven="]])
def test_null_and_nothing_unset_a_key_of_the_file(recipe: Any, words: list[str]) -> None:
    """Seen to fail: `oven is not JSON`."""
    config = recipe("dish: stew\noven: {heat: 180}\nminutes: 90\nherbs: [thyme]")
    assert cook(*config, *words).oven is None
    assert cook(*config, *words, "--minutes", "null", "--herbs", "null") == Recipe("stew")


def test_the_last_of_two_words_counts_if_one_is_null(recipe: Any) -> None:
    config = recipe("dish: stew\nminutes: 90")
    assert cook(*config, "--minutes", "null", "--minutes", "5").minutes == 5
    assert cook(*config, "--minutes", "5", "--minutes", "null").minutes == 10


def test_what_is_required_cannot_be_unset(recipe: Any) -> None:
    with pytest.raises(ValueError, match="--dish null: it is required"):
        cook(*recipe("dish: stew"), "--dish", "null")


def test_an_unset_key_is_shown_as_the_command_line_s(recipe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cook(*recipe("dish: stew\nminutes: 90"), "--minutes", "null", "--print-config")
    assert "minutes: 10  # command line" in capsys.readouterr().out


@dataclass
class Reading:
    dataset: str = option("which")
    dataset_config: str | None = option("its configuration", None)
    columns: dict | str | None = option("its columns", None)  # type: ignore[type-arg]
    chat: bool = option("how", False)


def test_what_a_file_says_of_its_dataset_is_not_said_of_another(
    recipe: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen to fail: `mine.jsonl has no dataset_config ('main')`."""
    config = recipe("dataset: org/maths\ndataset_config: main\ncolumns: {prompt: question}\nchat: true")

    def read(*words: str) -> Reading:
        return parse_all("train", "", [Reading], [*config, *words])[0]  # type: ignore[no-any-return]

    assert read("--dataset", "mine.jsonl") == Reading("mine.jsonl", chat=True)
    said = capsys.readouterr().err
    assert "dataset_config and columns in" in said
    assert "are of org/maths: left out for mine.jsonl" in said
    assert read("--dataset=mine.jsonl", "--dataset_config", "b") == Reading("mine.jsonl", "b", chat=True)
    assert read("--dataset", "org/maths@v1") == Reading("org/maths@v1", "main", {"prompt": "question"}, True)
    assert read() == Reading("org/maths", "main", {"prompt": "question"}, True)


def test_an_unknown_flag_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cook("--dish", "stew", "--minuts", "5")
    assert ended.value.code == 2
    assert "no option --minuts: did you mean '--minutes'?" in capsys.readouterr().err


def test_an_abbreviated_flag_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    """--min would otherwise change its meaning as soon as a second option starts with it."""
    with pytest.raises(SystemExit):
        cook("--dish", "stew", "--min", "5")
    assert "no option --min" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["- dish\n- stew\n", "stew"])
def test_a_file_that_is_no_mapping_is_refused(recipe: Any, text: str) -> None:
    with pytest.raises(ValueError, match=r"recipe.yaml: expected `key: value` lines, found a (list|str)"):
        cook(*recipe(text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml"):
        cook("--config", str(tmp_path / "absent.yaml"))


def test_help_shows_every_option_its_default_and_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cook("--help")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "usage: craft-trainer cook" in text
    assert "example: craft-trainer cook --dish soup" in text
    for word in ("--dish", "--minutes", "how long (default: 10)", "--config", "--herbs"):
        assert word in text


def test_help_says_none_of_no_option_and_writes_defaults_as_one_types_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Seen to fail with argparse's own formatter: `(default: None)`, `(default: ['salt'])`."""

    @dataclass
    class Served:
        guests: int = option("how many")
        oven: str | None = option("where; by default on the fire", None)
        spices: list[str] = option("what is in it", ["salt", "thyme"])
        herbs: list[str] = option("what else", [])
        vegan: bool = option("without meat", False)

    with pytest.raises(SystemExit):
        parse_all("cook", "", [Served], ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for said in (
        "how many (must be given)",
        "on the fire --",
        "in it (default: salt thyme)",
        "else --",
        "(default: false)",
    ):
        assert said in text
    assert "None" not in text


@pytest.mark.parametrize("word", [[], ["all"]])
def test_help_of_train_names_what_happens_without_an_option(word: list[str], capsys) -> None:
    """Seen to fail: `--retention` said `(default: None)`, and `--resume_from_checkpoint` not that it takes `last`."""
    with pytest.raises(SystemExit):
        main(["train", "--help", *word])
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: None)" not in text
    assert "by default epsilon is as it is given" in text
    assert "last (the newest whole checkpoint in output_dir)" in text


def test_several_dataclasses_share_one_file(recipe: Any) -> None:
    dinner, table = parse_all("eat", "", [Recipe, Table], [*recipe("dish: stew\nguests: 6"), "--minutes", "1"])
    assert (dinner.dish, dinner.minutes, table.guests) == ("stew", 1, 6)


def test_a_training_file_becomes_a_validated_config(recipe: Any, tmp_path: Path) -> None:
    text = f"output_dir: {tmp_path}\nlearning_rate: 1e-4\nepsilon: 0.2\nretention_terms: [output]\nuse_cpu: true\n"
    (config,) = parse_all("train", "", [CraftConfig], [*recipe(text), "--epsilon", "0.1"])
    assert (config.learning_rate, config.epsilon, config.retention_terms) == (1e-4, 0.1, ["output"])
    with pytest.raises(ValueError, match=r"epsilon is -1\.0"):
        parse_all("train", "", [CraftConfig], [*recipe(text), "--epsilon", "-1.0"])


def test_a_no_without_quotes_is_the_choice_it_stands_for(recipe: Any) -> None:
    """YAML takes it for False. Seen to fail with the value passed on as it is."""
    (config,) = parse_all("train", "", [CraftConfig], [*recipe("save_strategy: no\neval_strategy: no\nbf16: no")])
    assert (config.save_strategy, config.eval_strategy, config.bf16) == ("no", "no", False)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("steps", "here it is 'max_steps'"),
        ("batch_size", "here it is 'per_device_train_batch_size'"),
        ("resume", "it is LeRobot's; give it as --resume=…"),
        ("env_eval_freq", "it is LeRobot's and has no counterpart: no environment runs while training"),
        ("epsilonn", "did you mean 'epsilon'"),
    ],
)
def test_lerobots_names_in_a_file_lead_to_ours(recipe: Any, key: str, hint: str) -> None:
    """Seen to fail with the nearest word instead."""
    with pytest.raises(ValueError, match=f"unknown key '{key}': {hint}"):
        parse_all("train", "", [CraftConfig], recipe(f"{key}: 1"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        (["a,b"], ["a", "b"]),
        (["a,", "b,c"], ["a", "b", "c"]),
        ([0, 1], ["0", "1"]),
        ([], []),
    ],
)
def test_list_forms(given: list[Any], expected: list[str]) -> None:
    assert split_list(given) == expected


def test_a_mapping_is_given_in_yaml_or_as_json() -> None:
    assert json_mapping("oven", '{"heat": 180, "fan": {"on": true}}') == {"heat": 180, "fan": {"on": True}}
    assert json_mapping("oven", {"heat": 180}) == {"heat": 180}
    assert json_mapping("oven", None) == {}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{heat: 180}", r"oven is not JSON \(.*\): give it as '\{\"key\": value\}'"),
        ("[180]", "oven must be a JSON object"),
        ([180], "oven must be a JSON object"),
    ],
)
def test_what_is_no_mapping_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        json_mapping("oven", value)


def test_a_hint_is_given_only_when_something_is_near() -> None:
    assert nearest("trian", ["train", "cache"]) == ": did you mean 'train'?"
    assert nearest("xyzzy", ["train", "cache"]) == ""


def test_a_misspelt_option_that_is_required_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    """Seen to fail: argparse only says that --dish is required."""
    for words in (["--dsh", "stew"], ["--dsh=stew"]):
        with pytest.raises(SystemExit) as ended:
            cook(*words)
        assert ended.value.code == 2
        assert "no option --dsh: did you mean '--dish'?" in capsys.readouterr().err


def printed(capsys: pytest.CaptureFixture[str], call: Any) -> str:
    with pytest.raises(SystemExit) as ended:
        call()
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_resolved_values_say_where_each_came_from(recipe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Seen to fail when the file's keys are taken for the command line's."""
    flag, file = recipe("dish: stew\nsalt: 2\nherbs: []\n")
    lines = printed(capsys, lambda: cook(flag, file, "--salt", "3", "--print-config")).splitlines()
    assert lines == [
        "salt: 3.0  # command line",
        f"dish: stew  # {file}",
        f"herbs: []  # {file}",
        "minutes: 10  # default",
        "vegan: false  # default",
        "spices: [1.0, 2.0]  # default",
        "oven: null  # default",
    ]


def test_the_resolved_values_are_a_file_that_says_the_same(
    recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every one of Trainer's options included. Seen to fail when an empty list becomes an option without words."""
    given = ["--output_dir", str(tmp_path), "--retention_terms", "output", "--report_to", "none", "--use_cpu", "true"]
    first = printed(capsys, lambda: parse_all("train", "", [CraftConfig], [*given, "--print_config"]))
    assert "report_to: [none]  # command line, which becomes []\n" in first
    (again,) = parse_all("train", "", [CraftConfig], recipe(first))
    (direct,) = parse_all("train", "", [CraftConfig], given)
    assert again.to_dict() == direct.to_dict()
    assert len(first.splitlines()) > 100


def test_a_token_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seen to fail when it is printed like every other value."""
    words = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--hub_token", "hf_secret", "--print-config"]
    assert "hf_secret" not in printed(capsys, lambda: parse_all("train", "", [CraftConfig], words))


@pytest.mark.parametrize("value", ["[]", "{}", "[5]", "{a: 1}"])
def test_a_number_that_is_a_list_or_a_mapping_is_refused_by_its_file(recipe: Any, value: str) -> None:
    """Seen to fail: an empty list and mappings reached the comparison with the range, a TypeError."""
    with pytest.raises(ValueError, match=r"recipe\.yaml: .*--minutes"):
        cook(*recipe(f"dish: stew\nminutes: {value}\n"))


def test_a_file_that_is_not_yaml_is_named(recipe: Any) -> None:
    """Seen to fail: PyYAML's own error is no ValueError, and ended in a traceback."""
    with pytest.raises(ValueError, match=r"recipe.yaml is not YAML: (.|\n)*line \d"):
        cook(*recipe("dish: stew\n{minutes: 5\n"))


def test_what_is_wrong_is_not_lost_among_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    """Seen to fail with argparse's own error, which lists every option first: 150 for a training."""
    with pytest.raises(SystemExit):
        cook("--dish", "stew", "--minutes", "soon")
    assert capsys.readouterr().err.count("\n") == 2
