"""The configuration pages are what the program says of itself."""

import json
import os
import re
import subprocess
import sys

import pytest

from harness import yaml12
from harness.gateway import TOP, command, simple


def test_the_configuration_reference_is_made_from_the_schema():
    schema = command("schema").stdout
    made = subprocess.run([sys.executable, TOP / "scripts/docs-reference"], input=schema, capture_output=True, text=True, check=True).stdout
    written = (TOP / "docs/src/configuration.md").read_text()
    assert made == written, "run: tidegate schema | scripts/docs-reference > docs/src/configuration.md"


def blocks():
    for page in [*sorted(TOP.glob("docs/src/*.md")), TOP / "README.md"]:
        if page.exists():
            for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S)):
                yield pytest.param(text, id=f"{page.stem}-{number}")


# What a block that shows only a part of a route, an upstream or a service stands in.
ROUTE = "routes:\n  - name: doc\n    to: [ { upstream: up } ]\n"
UPSTREAM = "upstreams:\n  - name: up\n    endpoints: [ { address: 127.0.0.1:1 } ]\n"
BARE = "upstreams:\n  - name: up\n"
SERVICE = "services:\n  - name: doc\n"


@pytest.mark.parametrize("text", blocks())
def test_configuration_shown_in_the_documentation_is_accepted(text, tmp_path):
    if not text.startswith(" "):
        candidates = [text]
    else:
        # Lines that stand for alternatives are tried one by one.
        pieces = text.splitlines(keepends=True) if text.count("discover:") > 1 else [text]
        candidates = [base + piece for piece in pieces for base in (ROUTE, UPSTREAM, BARE, SERVICE)]
        per_piece = [candidates[n : n + 4] for n in range(0, len(candidates), 4)]
        for group in per_piece:
            assert any(accepted(each, tmp_path) for each in group), group[0]
        return
    for each in candidates:
        assert accepted(each, tmp_path), each


def accepted(text, folder):
    config = yaml12.load(text)
    names = {target.get("upstream") for route in config.get("routes", []) for target in [*route.get("to", []), *route.get("fallback", []), route.get("mirror") or {}]}
    have = {upstream["name"] for upstream in config.get("upstreams", [])}
    config.setdefault("upstreams", [])
    config["upstreams"] += [{"name": name, "endpoints": [{"address": "127.0.0.1:1"}]} for name in sorted(names - have - {None})]
    path = folder / "doc.yaml"
    path.write_text(json.dumps(config))
    (folder / "endpoints.json").write_text('{"endpoints": []}')
    # What is a secret in a page comes from the environment.
    env = {**os.environ, **{name: f"sk-{name}-{'0' * 20}" for name in re.findall(r"\$\{(\w+)\}", text)}}
    return command("check", path, env=env).returncode == 0


def test_the_metrics_page_names_exactly_the_metrics_there_are(tidegate, server):
    gateway = tidegate(simple(server()))
    told = set(re.findall(r"^# HELP (\S+)", gateway.admin("/metrics").text(), re.M))
    page = (TOP / "docs/src/admin.md").read_text()
    written = set(re.findall(r"`((?:tidegate|process)_[a-z_]+)`", page[page.index("## Metrics") :]))
    assert written == told


def test_the_admin_page_names_every_path(tidegate, server):
    gateway = tidegate(simple(server()))
    paths = json.loads(gateway.admin("/api/openapi.json").body)["paths"]
    page = (TOP / "docs/src/admin.md").read_text()
    missing = [path for path in paths if re.sub(r"{(\w+)}", lambda part: part[1].upper(), path) not in page and not path.startswith("/assets")]
    assert not missing
