"""``craft-trainer configs``: the configurations that came with this version, as files to use and to edit."""

from dataclasses import dataclass
from pathlib import Path

from craft_trainer.options import option

EXAMPLE = "craft-trainer configs --output_dir configs"
SHIPPED = Path(__file__).parents[1] / "configs"  # in a checkout a link to the folder at its root


@dataclass
class ConfigsArguments:
    """The folder."""

    output_dir: str = option("folder to write them into; the documentation's commands expect configs", "configs")


def run(arguments: ConfigsArguments) -> None:
    """Copy all of them and print a line per file; nothing is written if a file there says something else."""
    folder = Path(arguments.output_dir)
    texts = {folder / path.relative_to(SHIPPED): path.read_text() for path in sorted(SHIPPED.rglob("*.yaml"))}
    for path, text in texts.items():
        if path.exists() and path.read_text() != text:
            raise FileExistsError(f"{path} was changed: move it away, or choose another --output_dir")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path)
