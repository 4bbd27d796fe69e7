"""Links of the documentation lead somewhere, on GitHub and on the site, and the site has every page."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from pages import DOCS, PAGES, ROOT, anchors, links

SITE = sorted(page for page in PAGES if page.is_relative_to(DOCS))


class Loader(yaml.SafeLoader):
    """YAML with the Python objects of mkdocs.yml left out."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def pages_of(entry):
    """The files below an entry of the navigation."""
    if isinstance(entry, str):
        return [entry]
    values = entry if isinstance(entry, list) else list(entry.values())
    return [page for value in values for page in pages_of(value)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Seen to fail with a file and with a heading renamed."""
    for link in links(page):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, fragment = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: there is no {path}"
        if fragment:
            assert fragment in anchors(target), f"{page.name}: {target.name} has no heading #{fragment}"


@pytest.mark.parametrize("page", SITE, ids=lambda page: page.name)
def test_pages_of_the_site_stay_inside_it(page):
    for link in links(page):
        if "://" not in link:
            assert (page.parent / link.partition("#")[0]).resolve().is_relative_to(DOCS), f"{page.name}: {link}"


def test_the_navigation_is_all_pages():
    """Seen to fail with a page that is not listed."""
    navigation = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"]
    assert sorted(pages_of(navigation)) == [str(page.relative_to(DOCS)) for page in SITE]


def test_nothing_is_loaded_from_elsewhere():
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)
    assert settings["theme"]["font"] is False
    assert "analytics" not in settings.get("extra", {})
    assert not settings.get("extra_javascript")
    for sheet in settings.get("extra_css", []):
        assert not re.search(r"@import|url\(|//", (DOCS / sheet).read_text()), f"{sheet} loads something"


def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert (Path(tmp_path) / "site/api/index.html").is_file()
