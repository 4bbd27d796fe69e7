"""Install packages by uv from where pip would take them: .venv/bin/python scripts/install.py WORDS OF PIP INSTALL

uv is several times faster than pip (docs/log.md), but reads none of its settings: a mirror, a further index,
constraints. Ends with status 3, and does nothing, where pip has a setting that uv is not told of.
"""

import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from pip._internal.commands import create_command

CACHE = Path(".venv/.uv")  # beside the files that are linked from it; removed when they are whole
HARMLESS = {"cache_dir", "disable_pip_version_check", "exists_action", "no_color", "progress_bar", "quiet", "retries"}
HARMLESS |= {"root_user_action", "timeout", "verbose"}
TOLD = {"cert", "constraints", "extra_index_urls", "find_links", "index_url", "proxy"}


def settings_of_pip() -> dict[str, Any]:
    """The options of ``pip install`` that files or variables set, by pip's own reading of them."""
    mine = options_of_pip()
    with mock.patch.dict(os.environ, {"PIP_CONFIG_FILE": os.devnull}):  # which is no file at all
        plain = options_of_pip(isolated=True)
    return {name: value for name, value in mine.items() if name != "isolated_mode" and value != plain[name]}


def options_of_pip(**kwargs: bool) -> dict[str, Any]:
    """Every option of ``pip install``."""
    return vars(create_command("install", **kwargs).parse_args(["nothing"])[0])


def variables(settings: dict[str, Any]) -> dict[str, str]:
    """The same for uv. They may hold passwords, which do not belong on a command line."""
    folders = [place for place in settings.get("find_links", []) if "://" in place or Path(place).exists()]
    told = {
        "UV_DEFAULT_INDEX": settings.get("index_url"),
        "UV_INDEX": " ".join(settings.get("extra_index_urls", [])),
        "UV_FIND_LINKS": ",".join(folders),
        "UV_CONSTRAINT": " ".join(settings.get("constraints", [])),
        "SSL_CERT_FILE": settings.get("cert"),
        "ALL_PROXY": settings.get("proxy"),
    }
    return {name: value for name, value in told.items() if value}


def main(words: list[str]) -> None:
    """Becomes uv, or ends."""
    settings = settings_of_pip()
    if unknown := sorted(settings.keys() - HARMLESS - TOLD):
        print(f"pip installs, since uv is not told of its settings: {', '.join(unknown)}", file=sys.stderr)
        sys.exit(3)
    options = ["--quiet", "--python", sys.executable, "--system-certs", "--index-strategy", "unsafe-best-match"]
    options += ["--compile-bytecode", "--cache-dir", str(CACHE), "--link-mode", "hardlink"]
    os.execve(
        Path(sys.executable).with_name("uv"),
        ["uv", "pip", "install", *options, *words],
        os.environ | variables(settings),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
