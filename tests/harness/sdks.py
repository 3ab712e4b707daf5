"""The official SDKs as callers: openai, anthropic and google-genai in Python, openai in Node. Each in a process of its own."""

import itertools
import json
import shutil
import subprocess
import threading
from functools import lru_cache
from pathlib import Path

from .gateway import TOP
from .heavy import environment

HERE = Path(__file__).resolve().parent


@lru_cache(maxsize=None)
def node_home():
    """Where the packages of tests/node are."""
    assert shutil.which("node") and shutil.which("npm"), "node and npm are missing: scripts/install-test-deps"
    made = subprocess.run([TOP / "scripts/node-modules", TOP / "tests/node"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert made.returncode == 0, made.stderr
    return Path(made.stdout.strip())


class Sdks:
    """A process that makes the calls it is asked for; several may be under way."""

    def __init__(self, command, log, cwd=None):
        self.log = open(log, "ab")
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, cwd=cwd)
        self.numbers, self.answers, self.changed = itertools.count(), {}, threading.Condition()
        self.ended = False
        threading.Thread(target=self._read, daemon=True).start()

    @classmethod
    def python(cls, folder):
        venv = environment("llm")
        return cls([venv / "bin/python", "-u", HERE / "sdks_worker.py"], Path(folder) / "sdks.txt")

    @classmethod
    def node(cls, folder):
        home = node_home()
        # Node finds packages beside the script.
        script = home / "openai.mjs"
        part = script.with_suffix(".part")
        shutil.copy(TOP / "tests/node/openai.mjs", part)
        part.rename(script)
        return cls(["node", script], Path(folder) / "node.txt", cwd=home)

    def _read(self):
        for line in self.process.stdout:
            answer = json.loads(line)
            with self.changed:
                self.answers[answer.pop("id")] = answer
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def begin(self, base, call, arguments=None, sdk="openai", **more):
        """Starts a call; `end` waits for it."""
        number = next(self.numbers)
        ask = {"id": number, "sdk": sdk, "call": call, "base": base, "arguments": arguments or {}, **more}
        self.process.stdin.write(json.dumps(ask) + "\n")
        self.process.stdin.flush()
        return number

    def end(self, number, timeout=90):
        with self.changed:
            self.changed.wait_for(lambda: number in self.answers or self.ended, timeout)
            assert number in self.answers, f"no answer of the SDK within {timeout} s (its process ended: {self.ended}); {self.log.name}"
            return self.answers.pop(number)

    def call(self, base, call, arguments=None, sdk="openai", wait=90, **more):
        return self.end(self.begin(base, call, arguments, sdk, **more), wait)

    def good(self, *arguments, **more):
        """A call that must succeed."""
        answer = self.call(*arguments, **more)
        assert answer["ok"], answer
        return answer

    def bad(self, *arguments, **more):
        """A call that must raise; its error."""
        answer = self.call(*arguments, **more)
        assert not answer["ok"], answer
        return {**answer["error"], "pieces": answer["pieces"]}

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.log.close()


# --- what is asked, in each dialect's own words --------------------------------------------------------

SDK_OF = {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}

_PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "description": "The city"}}, "required": ["city"]}


def arguments(dialect, text="Say hello.", model="gpt-4", tool=False, tokens=64, system=None):
    """Arguments of a chat call in a dialect's SDK."""
    if dialect == "openai":
        messages = [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": text}]
        tools = {"tools": [{"type": "function", "function": {"name": "get_weather", "description": "The weather of a city", "parameters": _PARAMETERS}}]} if tool else {}
        return {"model": model, "messages": messages, "max_tokens": tokens, **tools}
    if dialect == "anthropic":
        tools = {"tools": [{"name": "get_weather", "description": "The weather of a city", "input_schema": _PARAMETERS}]} if tool else {}
        return {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": text}], **({"system": system} if system else {}), **tools}
    config = {"max_output_tokens": tokens, **({"system_instruction": system} if system else {})}
    if tool:
        config["tools"] = [{"function_declarations": [{"name": "get_weather", "description": "The weather of a city", "parameters": _PARAMETERS}]}]
    return {"model": model, "contents": text, "config": config}


def tool_result(dialect, call, result="Sunny, 21 degrees", model="gpt-4"):
    """Arguments of the call that follows a tool's use, with its result."""
    base = arguments(dialect, "What is the weather in Paris?", model, tool=True)
    name, used = call["name"], call["arguments"]
    if dialect == "openai":
        base["messages"] += [
            {"role": "assistant", "content": None, "tool_calls": [{"id": call["id"], "type": "function", "function": {"name": name, "arguments": json.dumps(used)}}]},
            {"role": "tool", "tool_call_id": call["id"], "content": result},
        ]
    elif dialect == "anthropic":
        base["messages"] += [
            {"role": "assistant", "content": [{"type": "tool_use", "id": call["id"], "name": name, "input": used}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call["id"], "content": result}]},
        ]
    else:
        base["contents"] = [
            {"role": "user", "parts": [{"text": base["contents"]}]},
            {"role": "model", "parts": [{"function_call": {"name": name, "args": used}}]},
            {"role": "user", "parts": [{"function_response": {"name": name, "response": {"result": result}}}]},
        ]
    return base
