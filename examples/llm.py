#!/usr/bin/env python3
"""Stand-ins for providers of language models, to try examples/providers.yaml with. Python's own library is all they need.

    python3 examples/llm.py 8601 8602       one provider a port, on 127.0.0.1; each speaks OpenAI's and Anthropic's dialect

Each answers every question with its port, streaming or not. A key is spoiled and mended on the provider's own port:

    /fail?key=KEY&status=401        the key is revoked; 429: limited for ten seconds at a time; 500: its requests fail
    /fail?key=KEY                   the key works again
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qsl, urlsplit

ERRORS = {401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided"), 429: ("requests", "rate_limit_exceeded", "Rate limit reached for requests"), 500: ("server_error", None, "The server had an error")}


class Provider(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self):
        query = dict(parse_qsl(urlsplit(self.path).query))
        self.server.spoiled[query.get("key")] = int(query.get("status", 200))
        self.send(200, {"ok": True})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        key = self.headers.get("x-api-key") or (self.headers.get("authorization") or "").removeprefix("Bearer ")
        status = self.server.spoiled.get(key, 200)
        if status != 200:
            kind, code, message = ERRORS.get(status, ERRORS[500])
            return self.send(status, {"error": {"type": kind, "code": code, "message": message, "param": None}}, {"retry-after": "10"} if status == 429 else {})
        text = f"{self.server.server_port} says hello"
        shape = self.anthropic if self.path.endswith("/messages") else self.openai
        whole, events = shape(asked.get("model"), text)
        if not asked.get("stream"):
            return self.send(200, whole)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for event in events:
            self.wfile.write(event.encode() + b"\n\n")
            self.wfile.flush()
        self.close_connection = True

    @staticmethod
    def openai(model, text):
        def chunk(delta, finish=None):
            return "data: " + json.dumps({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

        whole = {"id": "1", "object": "chat.completion", "created": 1, "model": model, "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}}
        return whole, [chunk({"role": "assistant", "content": ""}), *[chunk({"content": f"{word} "}) for word in text.split()], chunk({}, "stop"), "data: [DONE]"]

    @staticmethod
    def anthropic(model, text):
        def event(kind, **more):
            return f"event: {kind}\ndata: " + json.dumps({"type": kind, **more})

        message = {"id": "1", "type": "message", "role": "assistant", "model": model, "content": [], "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 5, "output_tokens": 3}}
        words = [event("content_block_delta", index=0, delta={"type": "text_delta", "text": f"{word} "}) for word in text.split()]
        end = [event("content_block_stop", index=0), event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 3}), event("message_stop")]
        return {**message, "content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}, [event("message_start", message=message), event("content_block_start", index=0, content_block={"type": "text", "text": ""}), *words, *end]

    def send(self, status, value, headers=()):
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        for name, text in {"content-type": "application/json", "content-length": str(len(body)), **dict(headers)}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, port):
        super().__init__(("127.0.0.1", port), Provider)
        self.spoiled = {}

    def handle_error(self, *_):
        pass  # a caller that left


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    servers = [Server(int(port)) for port in sys.argv[1:]]
    threads = [Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        for server in servers:
            server.shutdown()


if __name__ == "__main__":
    main()
