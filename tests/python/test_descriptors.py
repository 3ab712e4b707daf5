"""The descriptors that gRPC reflection answers with are those of proto/."""

import subprocess

from harness.gateway import TOP


def test_the_committed_descriptors_are_what_the_compiler_makes(tmp_path):
    made = tmp_path / "descriptors.binpb"
    subprocess.run([TOP / "scripts/descriptors", made], check=True, stdin=subprocess.DEVNULL)
    committed = TOP / "crates/gateway/src/builtin/descriptors.binpb"
    assert made.read_bytes() == committed.read_bytes(), "run scripts/descriptors"
