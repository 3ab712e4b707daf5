"""The tour in the README: its blocks are run one after the other as a reader would paste them, and print what the page says."""

import re
import shutil

import pytest

from harness.gateway import TOP, binary
from harness.net import free_port

README = (TOP / "README.md").read_text()
TOUR = README[README.index("ANCHOR: tour") : README.index("ANCHOR_END: tour")]
PORT = re.compile(r"\b(8080|8443|850[1-9]|860[12]|990[01]|50051)\b")
# Before the output of each block.
SIGN = "@@ block "


def steps():
    """(commands, what they print) of the tour; building is not a part of the test."""
    found = [[language, text, ""] for language, text in re.findall(r"```(sh|text)\n(.*?)```", TOUR, re.S)]
    for before, each in zip(found, found[1:]):
        if each[0] == "text":
            before[2] = each[1]
    return [(commands, printed) for language, commands, printed in found if language == "sh" and "cargo build" not in commands]


def as_pattern(printed):
    """Lines as a regular expression: `…` is anything, and so much white space as there is, for ports here have more digits."""
    lines = [re.sub(r"…", ".*", re.sub(r"(\\ )+", r"[ ]+", re.escape(line.strip()).replace(r"\…", "…"))) for line in printed.strip().splitlines()]
    return re.compile(r"[ ]*\n".join(r"[ ]*" + line if line != ".*" else r"[\s\S]*?" for line in lines))


@pytest.fixture
def ports():
    """Puts free ports into a text, in the order of those that the tour has: what it sorts stays sorted."""
    named = sorted({found for path in (TOP / "examples").rglob("*.*") if path.is_file() and "__pycache__" not in path.parts for found in PORT.findall(path.read_text())} | set(PORT.findall(TOUR)))
    mapped = dict(zip(named, sorted(free_port() for _ in named)))
    return lambda text: PORT.sub(lambda found: str(mapped[found[1]]), text)


@pytest.mark.parametrize("program", ["bash", "curl", "openssl"])
def test_what_the_tour_needs_is_here(program):
    assert shutil.which(program), f"{program} (scripts/install-test-deps)"


def test_the_tour_does_what_it_says(tmp_path, process, ports):
    for path in (TOP / "examples").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            copy = tmp_path / "examples" / path.relative_to(TOP / "examples")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(ports(path.read_text()))
            copy.chmod(path.stat().st_mode)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tidegate").symlink_to(binary())
    script = ["export PATH=$PWD/bin:$PATH TIDEGATE_ADMIN=http://" + ports("127.0.0.1:9900")]
    for number, (commands, _) in enumerate(steps()):
        script += [f"echo '{SIGN}{number}'", ports(commands)]
    (tmp_path / "tour.sh").write_text("\n".join(script))
    run = process(["bash", "tour.sh"], cwd=tmp_path)
    run.wait(150)
    outputs = re.split(rf"^{SIGN}\d+\n", run.log(), flags=re.M)[1:]
    assert len(outputs) == len(steps()), run.log()
    for (commands, printed), output in zip(steps(), outputs):
        plain = output.replace("\r", "").strip("\n")
        assert as_pattern(ports(printed)).fullmatch(plain.rstrip()), f"{commands}\nprinted\n{plain}\ninstead of\n{ports(printed)}"


def test_the_configuration_in_the_tour_is_the_example_that_it_names():
    shown = re.search(r"```yaml\n(.*?)```", TOUR, re.S)[1]
    assert shown in (TOP / "examples/first.yaml").read_text()
