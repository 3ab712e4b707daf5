"""`tidegate import`: other systems' configurations become ours."""

import subprocess

import yaml

from harness.gateway import binary, command

KEY = "sk-live-0123456789abcdef0123"
HIGRESS = f"""
provider:
  type: qwen
  apiTokens: ["{KEY}"]
  failover: {{ enabled: true, healthCheckModel: qwen-turbo, failoverOnStatus: ["4.*"] }}
  qwenEnableSearch: true
"""


def test_what_differs_is_told_on_stderr_with_its_line_and_stdout_is_the_configuration(tmp_path):
    path = tmp_path / "ai-proxy.yaml"
    path.write_text(HIGRESS)
    ran = command("import", "higress", path)
    assert ran.returncode == 0
    config = yaml.safe_load(ran.stdout)
    assert config["providers"][0]["api_tokens"] == ["${QWEN_TOKEN}"]
    assert f"{path}:4: export QWEN_TOKEN" in ran.stderr
    assert f"{path}:5: `4.*` is looked for anywhere" in ran.stderr and "204" in ran.stderr
    assert f"{path}:6: `qwenEnableSearch` has no counterpart" in ran.stderr
    assert KEY not in ran.stdout + ran.stderr


def test_secrets_are_kept_when_that_is_asked_for_and_a_pipe_is_a_file():
    ran = subprocess.run([str(binary()), "import", "higress", "--keep-secrets", "-"], input=HIGRESS, capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0
    assert yaml.safe_load(ran.stdout)["providers"][0]["api_tokens"] == [KEY]
    assert KEY not in ran.stderr


def test_what_can_not_be_imported_is_refused_with_a_reason(tmp_path):
    for name, text, reason in (("none.yaml", "a: 1\n", "no configuration of ai-proxy"), ("bad.yaml", f"provider:\n  apiTokens: [ '{KEY}\n", "not YAML")):
        path = tmp_path / name
        path.write_text(text)
        ran = command("import", "higress", path)
        assert ran.returncode == 2 and reason in ran.stderr and ran.stdout == "" and KEY not in ran.stderr
    assert command("import", "higress", tmp_path / "nowhere").returncode == 2
    assert command("import", "elsewhere", tmp_path).returncode == 2
