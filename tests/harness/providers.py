"""Providers in a config, and what the gateway says of their keys."""

import hashlib
import json

from .gateway import command


def token(name):
    """A key that looks like one; the same name gives the same key."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"sk-{name}-{digest[:24]}"


def fingerprint(key):
    """What people see of it."""
    return f"sk-…{key[-4:]}"


def provider(name, server, keys, dialect="openai", **more):
    """A provider whose server speaks a dialect."""
    base = server.base(dialect) if hasattr(server, "base") else server
    return {"name": name, "type": dialect, "base_url": base, "api_tokens": list(keys), **more}


def route_to(*names, name=None, **more):
    """A route to the first provider; the others are its fallback."""
    first, *others = names
    fallback = {"fallback": [each if isinstance(each, dict) else {"provider": each} for each in others]} if others else {}
    return {"name": name or first, "to": [{"provider": first}], **fallback, **more}


def one(server, keys, dialect="openai", route=None, **more):
    """The smallest config: everything to one provider `p`."""
    return {"routes": [route_to("p", **(route or {}))], "providers": [provider("p", server, keys, dialect, **more)]}


# --- callers ----------------------------------------------------------------------------------------

CHAT = {"model": "gpt-4", "messages": [{"role": "user", "content": "Say hello."}]}
MESSAGES = {"model": "gpt-4", "max_tokens": 64, "messages": [{"role": "user", "content": "Say hello."}]}
GENERATE = {"contents": [{"role": "user", "parts": [{"text": "Say hello."}]}]}


def ask(dialect, stream=False, model="gpt-4", **more):
    """Target and body of a request in a caller's dialect."""
    if dialect == "openai":
        return "/v1/chat/completions", {**CHAT, "model": model, **({"stream": True} if stream else {}), **more}
    if dialect == "anthropic":
        return "/v1/messages", {**MESSAGES, "model": model, **({"stream": True} if stream else {}), **more}
    verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
    return f"/v1beta/models/{model}:{verb}", {**GENERATE, **more}


KEY_HEADERS = {
    "openai": [("authorization", "Bearer sk-of-the-caller")],
    "anthropic": [("x-api-key", "sk-of-the-caller"), ("anthropic-version", "2023-06-01")],
    "gemini": [("x-goog-api-key", "sk-of-the-caller")],
}


def post(gateway, dialect="openai", headers=(), **more):
    """One request in a dialect; the answer."""
    target, body = ask(dialect, **more)
    return send(gateway, target, body, [*KEY_HEADERS[dialect], *headers])


def send(gateway, target, body, headers=(), **more):
    body = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return gateway.request("POST", target, [("content-type", "application/json"), *headers], body, **more)


def said(answer, dialect="openai"):
    """The text of a whole answer."""
    value = json.loads(answer.body)
    if dialect == "openai":
        return value["choices"][0]["message"]["content"]
    if dialect == "anthropic":
        return value["content"][0]["text"]
    return value["candidates"][0]["content"]["parts"][0]["text"]


def error_of(answer, dialect="openai"):
    """Message and kind of an error, which must have the dialect's shape."""
    value = json.loads(answer.body)
    error = value["error"]
    if dialect == "openai":
        assert set(error) >= {"message", "type", "param", "code"}, value
        return error["message"], error["type"]
    if dialect == "anthropic":
        assert value["type"] == "error" and set(error) >= {"message", "type"}, value
        return error["message"], error["type"]
    assert error["code"] == answer.status and set(error) >= {"message", "status"}, value
    return error["message"], error["status"]


# --- what the gateway says ----------------------------------------------------------------------------


def seen(gateway, name="p"):
    """A provider as the admin API tells of it."""
    return next(each for each in gateway.api("providers") if each["name"] == name)


def key(gateway, token_of_key, name="p"):
    """A key as the admin API tells of it."""
    mark = fingerprint(token_of_key)
    return next(each for each in seen(gateway, name)["keys"] if each["fingerprint"] == mark)


def state(gateway, token_of_key, name="p"):
    """The worst state of a key, over all models."""
    found = key(gateway, token_of_key, name)
    return next((each["state"] for each in [found, *found["models"]] if each["state"] != "healthy"), "healthy")


def worst(of_key):
    """What keeps a key out: for all models, else for one; None if nothing does."""
    found = [each for each in [of_key, *of_key["models"]] if each["state"] in ("ejected", "probing")]
    return found[0]["evidence"] if found else None


def states(gateway, name="p"):
    """The worst state of each key, by fingerprint."""
    return {each["fingerprint"]: next((scope["state"] for scope in [each, *each["models"]] if scope["state"] != "healthy"), "healthy") for each in seen(gateway, name)["keys"]}


def stored(gateway, *classes):
    """Whether findings of these classes stand in the embedded store's file."""
    held = (gateway.folder / "tidegate-data" / "state.redb").read_bytes()
    return all(each.encode() in held for each in classes)


def status_table(gateway, *more):
    """What `tidegate status providers` prints."""
    ran = command("status", "providers", "--admin", f"http://127.0.0.1:{gateway.admin_port}", *more)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
