"""Runs inside the environment of requirements-llm.txt: makes calls with the official SDKs, unmodified.

Reads one JSON object a line (`{"id", "sdk", "call", "base", …}`), answers with one, in any order. Nothing of the harness is imported
here, and the SDKs do not retry by themselves: a test sees what the first answer was.
"""

import asyncio
import collections
import json
import sys

import anthropic
import openai
from google import genai
from google.genai import types

_clients = {}


def client(ask):
    """One client a set of settings: making one is slow."""
    name = json.dumps([ask["sdk"], ask["base"], ask.get("key"), ask.get("headers"), ask.get("timeout")])
    if name not in _clients:
        key, headers, timeout = ask.get("key", "sk-of-the-caller"), ask.get("headers") or {}, ask.get("timeout", 60)
        if ask["sdk"] == "openai":
            made = openai.AsyncOpenAI(api_key=key, base_url=ask["base"] + "/v1", max_retries=0, timeout=timeout, default_headers=headers)
        elif ask["sdk"] == "anthropic":
            made = anthropic.AsyncAnthropic(api_key=key, base_url=ask["base"], max_retries=0, timeout=timeout, default_headers=headers)
        else:
            options = types.HttpOptions(base_url=ask["base"], headers=headers, timeout=int(timeout * 1000), retry_options=types.HttpRetryOptions(attempts=1))
            made = genai.Client(api_key=key, http_options=options, vertexai=False)
        _clients[name] = made
    return _clients[name]


async def openai_call(made, call, arguments, out):
    if call == "chat":
        answer = await made.chat.completions.create(**arguments)
        message = answer.choices[0].message
        tools = [{"id": each.id, "name": each.function.name, "arguments": json.loads(each.function.arguments)} for each in message.tool_calls or []]
        out.update(text=message.content, tools=tools, finish=answer.choices[0].finish_reason, usage=[answer.usage.prompt_tokens, answer.usage.completion_tokens], model=answer.model)
    elif call == "stream":
        tools, usage, finish = {}, None, None
        stream = await made.chat.completions.create(stream=True, stream_options={"include_usage": True}, **arguments)
        async for chunk in stream:
            if chunk.usage:
                usage = [chunk.usage.prompt_tokens, chunk.usage.completion_tokens]
            for choice in chunk.choices:
                finish = choice.finish_reason or finish
                if choice.delta.content:
                    out["pieces"].append(choice.delta.content)
                for each in choice.delta.tool_calls or []:
                    tool = tools.setdefault(each.index, {"id": "", "name": "", "arguments": ""})
                    tool["id"] += each.id or ""
                    tool["name"] += each.function.name or ""
                    tool["arguments"] += each.function.arguments or ""
        out.update(tools=[{**tool, "arguments": json.loads(tool["arguments"])} for tool in tools.values()], usage=usage, finish=finish)
    elif call == "responses":
        answer = await made.responses.create(**arguments)
        out.update(text=answer.output_text, usage=[answer.usage.input_tokens, answer.usage.output_tokens])
    elif call == "responses-stream":
        async with made.responses.stream(**arguments) as stream:
            async for event in stream:
                if event.type == "response.output_text.delta":
                    out["pieces"].append(event.delta)
                elif event.type == "error":
                    raise openai.APIError(event.message, request=None, body={"code": event.code})
            final = await stream.get_final_response()
        out.update(text=final.output_text, usage=[final.usage.input_tokens, final.usage.output_tokens])
    elif call == "embeddings":
        answer = await made.embeddings.create(**arguments)
        out.update(vectors=[each.embedding for each in answer.data])
    elif call == "models":
        out.update(models=[each.id async for each in made.models.list()])
    else:
        raise ValueError(call)


async def anthropic_call(made, call, arguments, out):
    def take(message):
        tools = [{"id": block.id, "name": block.name, "arguments": block.input} for block in message.content if block.type == "tool_use"]
        text = "".join(block.text for block in message.content if block.type == "text")
        out.update(text=text, tools=tools, finish=message.stop_reason, usage=[message.usage.input_tokens, message.usage.output_tokens], model=message.model)

    if call == "chat":
        take(await made.messages.create(**arguments))
    elif call == "stream":
        async with made.messages.stream(**arguments) as stream:
            async for piece in stream.text_stream:
                out["pieces"].append(piece)
            take(await stream.get_final_message())
    elif call == "count":
        out.update(count=(await made.messages.count_tokens(**arguments)).input_tokens)
    elif call == "models":
        out.update(models=[each.id async for each in made.models.list()])
    else:
        raise ValueError(call)


async def google_call(made, call, arguments, out):
    config = types.GenerateContentConfig(automatic_function_calling={"disable": True}, **arguments.pop("config", {}))

    def tools_of(answer):
        return [{"id": each.id, "name": each.name, "arguments": each.args} for each in answer.function_calls or []]

    def usage_of(answer):
        usage = answer.usage_metadata
        return usage and [usage.prompt_token_count, usage.candidates_token_count]

    if call == "chat":
        answer = await made.aio.models.generate_content(config=config, **arguments)
        text = "".join(part.text for part in answer.candidates[0].content.parts if part.text)
        out.update(text=text, tools=tools_of(answer), usage=usage_of(answer), finish=str(answer.candidates[0].finish_reason.value))
    elif call == "stream":
        tools, usage, finish = [], None, None
        async for chunk in await made.aio.models.generate_content_stream(config=config, **arguments):
            usage = usage_of(chunk) or usage
            tools += tools_of(chunk)
            for candidate in chunk.candidates or []:
                finish = candidate.finish_reason.value if candidate.finish_reason else finish
                for part in (candidate.content.parts if candidate.content else None) or []:
                    if part.text:
                        out["pieces"].append(part.text)
        out.update(tools=tools, usage=usage, finish=finish)
    elif call == "embeddings":
        answer = await made.aio.models.embed_content(**arguments)
        out.update(vectors=[each.values for each in answer.embeddings])
    elif call == "count":
        out.update(count=(await made.aio.models.count_tokens(**arguments)).total_tokens)
    else:
        raise ValueError(call)


CALLS = {"openai": openai_call, "anthropic": anthropic_call, "google": google_call}


def error_of(error):
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    response = getattr(error, "response", None)
    headers = {name.lower(): value for name, value in response.headers.items()} if response is not None else {}
    body = getattr(error, "body", None) or getattr(error, "details", None)
    return {"type": type(error).__name__, "module": type(error).__module__.split(".")[0], "status": status if isinstance(status, int) else None, "message": str(error), "body": body if isinstance(body, (dict, list, str)) else None, "headers": headers}


async def one(ask):
    out = {"ok": True, "pieces": []}
    try:
        await CALLS[ask["sdk"]](client(ask), ask["call"], dict(ask.get("arguments") or {}), out)
    except Exception as error:
        out.update(ok=False, error=error_of(error))
    if out["pieces"]:
        out["text"] = "".join(out["pieces"])
    return out


async def many(ask):
    """`count` calls, so many at a time: how they ended, and what did not go well."""
    gate, outcomes, bad = asyncio.Semaphore(ask.get("at_once", ask["count"])), collections.Counter(), []

    async def each():
        async with gate:
            out = await one(ask)
        outcomes["ok" if out["ok"] else f"{out['error']['type']} {out['error']['status']}"] += 1
        if out["ok"]:
            outcomes[f"text {out.get('text')}"] += 1
        else:
            bad.append(out["error"])

    await asyncio.gather(*[each() for _ in range(ask["count"])])
    return {"outcomes": outcomes, "errors": bad[:5]}


async def main():
    loop, write = asyncio.get_running_loop(), asyncio.Lock()
    running = set()

    async def serve(line):
        ask = json.loads(line)
        out = await (many(ask) if ask.get("count") else one(ask))
        async with write:
            sys.stdout.write(json.dumps({"id": ask["id"], **out}, default=str) + "\n")
            sys.stdout.flush()

    while line := await loop.run_in_executor(None, sys.stdin.readline):
        task = asyncio.ensure_future(serve(line))
        running.add(task)
        task.add_done_callback(running.discard)


asyncio.run(main())
