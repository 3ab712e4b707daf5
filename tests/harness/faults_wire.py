"""What LLM providers write: whole answers, streams, errors, as OpenAI, Anthropic and Gemini do."""

import json

TEXT = ("Hel", "lo the", "re")
USAGE = (11, 7)  # tokens of request and answer
TOOL = ("get_weather", {"city": "Paris"})


def text(pieces=TEXT):
    return "".join(pieces)


def _data(value, event=None):
    return (f"event: {event}\n" if event else "").encode() + b"data: " + json.dumps(value).encode() + b"\n\n"


# --- whole answers --------------------------------------------------------------------------------


def whole(dialect, model, pieces=TEXT, tool=None, usage=USAGE):
    """The body of a complete answer."""
    read, written = usage
    if dialect == "openai":
        message = {"role": "assistant", "content": text(pieces), "refusal": None}
        if tool:
            name, arguments = tool
            message.update(content=None, tool_calls=[{"id": "call_1", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}])
        return {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls" if tool else "stop"}],
            "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
        }  # fmt: skip
    if dialect == "anthropic":
        content = [{"type": "tool_use", "id": "toolu_1", "name": tool[0], "input": tool[1]}] if tool else [{"type": "text", "text": text(pieces)}]
        return {
            "id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": content,
            "stop_reason": "tool_use" if tool else "end_turn", "stop_sequence": None, "usage": {"input_tokens": read, "output_tokens": written},
        }  # fmt: skip
    part = {"functionCall": {"name": tool[0], "args": tool[1]}} if tool else {"text": text(pieces)}
    return {
        "candidates": [{"content": {"parts": [part], "role": "model"}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": read, "candidatesTokenCount": written, "totalTokenCount": read + written},
        "modelVersion": model, "responseId": "r1",
    }  # fmt: skip


def responses(model, pieces=TEXT, usage=USAGE):
    """A complete answer of OpenAI's Responses API."""
    read, written = usage
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": model, "error": None, "incomplete_details": None,
        "instructions": None, "metadata": {}, "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
        "output": [{"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [{"type": "output_text", "text": text(pieces), "annotations": []}]}],
        "usage": {"input_tokens": read, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": written, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": read + written},
    }  # fmt: skip


def embeddings(dialect, model, count, usage=USAGE):
    vectors = [[float(number), 0.5, -0.25] for number in range(count)]
    if dialect == "openai":
        data = [{"object": "embedding", "index": number, "embedding": vector} for number, vector in enumerate(vectors)]
        return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": usage[0], "total_tokens": usage[0]}}
    return {"embeddings": [{"values": vector} for vector in vectors]}


# --- streams --------------------------------------------------------------------------------------


def stream(dialect, model, pieces=TEXT, tool=None, usage=USAGE, include_usage=True):
    """A stream's frames: those before content, those of content, those of the end."""
    return {"openai": _openai_stream, "anthropic": _anthropic_stream, "gemini": _gemini_stream}[dialect](model, pieces, tool, usage, include_usage)


def _openai_stream(model, pieces, tool, usage, include_usage):
    def chunk(delta, finish=None, **more):
        return _data({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}], **more})

    head = [chunk({"role": "assistant", "content": "" if not tool else None})]
    if tool:
        name, arguments = tool[0], json.dumps(tool[1])
        calls = [{"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}, *[{"index": 0, "function": {"arguments": part}} for part in (arguments[:4], arguments[4:])]]
        content = [chunk({"tool_calls": [call]}) for call in calls]
    else:
        content = [chunk({"content": piece}) for piece in pieces]
    end = [chunk({}, "tool_calls" if tool else "stop")]
    if include_usage:
        read, written = usage
        end.append(_data({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [], "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}}))
    return head, content, [*end, b"data: [DONE]\n\n"]


def _anthropic_stream(model, pieces, tool, usage, _include_usage):
    read, written = usage

    def event(kind, **more):
        return _data({"type": kind, **more}, kind)

    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": [], "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": read, "output_tokens": 1}}
    block = {"type": "tool_use", "id": "toolu_1", "name": tool[0], "input": {}} if tool else {"type": "text", "text": ""}
    head = [event("message_start", message=message), event("ping")]
    if tool:
        arguments = json.dumps(tool[1])
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in (arguments[:4], arguments[4:])]
    else:
        deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
    start = event("content_block_start", index=0, content_block=block)
    content = [event("content_block_delta", index=0, delta=delta) for delta in deltas]
    # The beginning of a text says nothing yet; that of a tool's use does.
    if tool:
        content.insert(0, start)
    else:
        head.append(start)
    end = [event("content_block_stop", index=0), event("message_delta", delta={"stop_reason": "tool_use" if tool else "end_turn", "stop_sequence": None}, usage={"output_tokens": written}), event("message_stop")]
    return head, content, end


def _gemini_stream(model, pieces, tool, usage, _include_usage):
    read, written = usage

    def chunk(parts, finish=None, tokens=None):
        candidate = {"content": {"parts": parts, "role": "model"}, "index": 0, **({"finishReason": finish} if finish else {})}
        counted = {"promptTokenCount": read, "totalTokenCount": read + (tokens or 0), **({"candidatesTokenCount": tokens} if tokens else {})}
        return _data({"candidates": [candidate], "usageMetadata": counted, "modelVersion": model, "responseId": "r1"})

    if tool:
        content = [chunk([{"functionCall": {"name": tool[0], "args": tool[1]}}])]
    else:
        content = [chunk([{"text": piece}]) for piece in pieces]
    return [chunk([{"text": ""}])], content, [chunk([{"text": ""}], "STOP", written)]


PING = {"openai": b": ping\n\n", "anthropic": _data({"type": "ping"}, "ping"), "gemini": b": ping\n\n"}

ERROR_EVENT = {
    "openai": _data({"error": {"message": "The server had an error while processing your request", "type": "server_error", "param": None, "code": None}}),
    "anthropic": _data({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "error"),
    "gemini": _data({"error": {"code": 503, "message": "The model is overloaded. Please try again later.", "status": "UNAVAILABLE"}}),
}

MALFORMED = {
    "openai": b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":\n\n',
    "anthropic": b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":\n\n',
    "gemini": b'data: {"candidates":[{"content":{"parts":[{"text":\n\n',
}


# --- errors ---------------------------------------------------------------------------------------


def _openai_error(status, message, kind, code=None):
    return status, {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _anthropic_error(status, message, kind):
    return status, {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


def _gemini_error(status, message, word, reason=None, quota=None):
    details = []
    if reason:
        details.append({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"})
    if quota:
        details.append({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota}]})
    return status, {"error": {"code": status, "message": message, "status": word, **({"details": details} if details else {})}}


def error(dialect, kind, key="sk-x"):
    """Status and body of an error of this kind. Dead keys are echoed, as some providers do."""
    model = "the model you asked for"
    table = {
        "openai": {
            "dead": lambda: _openai_error(401, f"Incorrect API key provided: {key}. You can find your API key at your account.", "invalid_request_error", "invalid_api_key"),
            "limited": lambda: _openai_error(429, "Rate limit reached for gpt-4 on requests per min (RPM): Limit 3, Used 3, Requested 1.", "requests", "rate_limit_exceeded"),
            "quota": lambda: _openai_error(429, "You exceeded your current quota, please check your plan and billing details.", "insufficient_quota", "insufficient_quota"),
            "region": lambda: _openai_error(403, "Country, region, or territory not supported", "request_forbidden", "unsupported_country_region_territory"),
            "down": lambda: _openai_error(500, "The server had an error while processing your request. Sorry about that!", "server_error"),
            "overloaded": lambda: _openai_error(503, "The engine is currently overloaded, please try again later", "server_error"),
            "fault": lambda: _openai_error(400, "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead.", "invalid_request_error", "decimal_above_max_value"),
            "unprocessable": lambda: _openai_error(422, "Unprocessable entity", "invalid_request_error"),
            "no-model": lambda: _openai_error(404, f"The model `{model}` does not exist", "invalid_request_error", "model_not_found"),
        },
        "anthropic": {
            "dead": lambda: _anthropic_error(401, "invalid x-api-key", "authentication_error"),
            "limited": lambda: _anthropic_error(429, "This request would exceed the rate limit for your organization of 50 requests per minute.", "rate_limit_error"),
            "quota": lambda: _anthropic_error(400, "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits.", "invalid_request_error"),
            "region": lambda: _anthropic_error(403, "Request not allowed", "forbidden"),
            "down": lambda: _anthropic_error(500, "Internal server error", "api_error"),
            "overloaded": lambda: _anthropic_error(529, "Overloaded", "overloaded_error"),
            "fault": lambda: _anthropic_error(400, "temperature: range: -0..1", "invalid_request_error"),
            "unprocessable": lambda: _anthropic_error(422, "Unprocessable entity", "invalid_request_error"),
            "no-model": lambda: _anthropic_error(404, f"model: {model}", "not_found_error"),
        },
        "gemini": {
            "dead": lambda: _gemini_error(400, "API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT", reason="API_KEY_INVALID"),
            "limited": lambda: _gemini_error(429, "You exceeded your current quota, please check your plan and billing details.", "RESOURCE_EXHAUSTED", quota="GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
            "quota": lambda: _gemini_error(429, "You exceeded your current quota, please check your plan and billing details.", "RESOURCE_EXHAUSTED", quota="GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
            "region": lambda: _gemini_error(400, "User location is not supported for the API use.", "FAILED_PRECONDITION"),
            "down": lambda: _gemini_error(500, "An internal error has occurred.", "INTERNAL"),
            "overloaded": lambda: _gemini_error(503, "The model is overloaded. Please try again later.", "UNAVAILABLE"),
            "fault": lambda: _gemini_error(400, "Unable to submit request because it has a temperature value of 3.0 but the supported range is from 0 to 2.0.", "INVALID_ARGUMENT"),
            "unprocessable": lambda: _gemini_error(422, "Unprocessable entity", "INVALID_ARGUMENT"),
            "no-model": lambda: _gemini_error(404, f"models/{model} is not found for API version v1beta", "NOT_FOUND"),
        },
    }
    return table[dialect][kind]()
