"""The documentation holds together: links lead somewhere, pages are listed, what it names exists."""

import re
import subprocess
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PAGES = sorted(TOP.glob("docs/src/*.md"))


def tracked():
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=TOP, capture_output=True, text=True, check=True).stdout.split()
    return sorted({TOP / name for name in listed if (TOP / name).exists()} | set(PAGES))


def anchors(path):
    """Anchors of a page's headings, as mdBook and code hosts make them."""
    found = set()
    for line in path.read_text().splitlines():
        if re.match(r"#{1,6} ", line):
            title = re.sub(r"[`*]", "", line.lstrip("#").strip()).lower()
            found.add(re.sub(r"[^\w\- ]", "", title).replace(" ", "-"))
    return found


def test_every_link_leads_somewhere():
    broken = []
    for page in tracked():
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            to = (page.parent / name).resolve() if name else page
            if not to.exists() or (anchor and to.suffix == ".md" and anchor not in anchors(to)):
                broken.append((str(page.relative_to(TOP)), target))
    assert not broken


def test_links_of_the_book_stay_in_it():
    """What a page includes has no relative links: they would be looked for beside the page."""
    leaving = []
    for page in PAGES:
        text = page.read_text()
        for name, anchor in re.findall(r"\{\{#include ([^:}]+)(?::(\w+))?\}\}", text):
            part = (page.parent / name).resolve().read_text()
            if anchor:
                part = part[part.index(f"ANCHOR: {anchor} ") : part.index(f"ANCHOR_END: {anchor} ")]
            leaving += [(page.name, target) for target in re.findall(r"\]\(([^)\s]+)\)", part) if not re.match(r"[a-z]+:", target)]
        for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", re.sub(r"```.*?```", "", text, flags=re.S)):
            if not re.match(r"[a-z]+:", target) and "/" in target:
                leaving.append((page.name, target))
    assert not leaving


def test_every_page_is_in_the_summary():
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (TOP / "docs/src/SUMMARY.md").read_text()))
    assert listed == {page.name for page in PAGES} - {"SUMMARY.md"}


def test_scripts_examples_and_folders_that_pages_name_exist():
    missing = []
    for page in tracked():
        for name in re.findall(r"\b((?:scripts|examples|bench|packaging|crates|tests)/[\w./-]*\w)", page.read_text()):
            if not (TOP / name).exists():
                missing.append((page.name, name))
    assert not missing


def test_code_blocks_are_closed():
    for page in tracked():
        assert page.read_text().count("```") % 2 == 0, page
