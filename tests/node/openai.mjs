// OpenAI's own client for Node as a caller: reads one JSON object a line, answers with one. See harness/sdks.py.
import { createInterface } from "node:readline";
import OpenAI from "openai";

const clients = new Map();

function client({ base, key = "sk-of-the-caller", headers = {}, timeout = 60 }) {
  const name = JSON.stringify([base, key, headers, timeout]);
  if (!clients.has(name)) {
    clients.set(name, new OpenAI({ apiKey: key, baseURL: `${base}/v1`, maxRetries: 0, timeout: timeout * 1000, defaultHeaders: headers }));
  }
  return clients.get(name);
}

const calls = {
  async chat(made, given, out) {
    const answer = await made.chat.completions.create(given);
    const { message, finish_reason: finish } = answer.choices[0];
    const tools = (message.tool_calls ?? []).map((each) => ({ id: each.id, name: each.function.name, arguments: JSON.parse(each.function.arguments) }));
    Object.assign(out, { text: message.content, tools, finish, usage: [answer.usage.prompt_tokens, answer.usage.completion_tokens] });
  },
  async stream(made, given, out) {
    const runner = made.chat.completions.stream({ ...given, stream_options: { include_usage: true } });
    runner.on("content", (piece) => out.pieces.push(piece));
    const answer = await runner.finalChatCompletion();
    const { message, finish_reason: finish } = answer.choices[0];
    const tools = (message.tool_calls ?? []).map((each) => ({ id: each.id, name: each.function.name, arguments: JSON.parse(each.function.arguments) }));
    Object.assign(out, { text: message.content, tools, finish, usage: answer.usage && [answer.usage.prompt_tokens, answer.usage.completion_tokens] });
  },
  async embeddings(made, given, out) {
    const answer = await made.embeddings.create(given);
    out.vectors = answer.data.map((each) => each.embedding);
  },
  async responses(made, given, out) {
    const answer = await made.responses.create(given);
    Object.assign(out, { text: answer.output_text, usage: [answer.usage.input_tokens, answer.usage.output_tokens] });
  },
};

async function serve(ask) {
  const out = { id: ask.id, ok: true, pieces: [] };
  try {
    await calls[ask.call](client(ask), ask.arguments, out);
  } catch (error) {
    out.ok = false;
    out.error = { type: error.constructor.name, status: error.status ?? null, message: error.message, body: error.error ?? null, headers: Object.fromEntries(error.headers ?? []) };
  }
  process.stdout.write(`${JSON.stringify(out)}\n`);
}

for await (const line of createInterface({ input: process.stdin })) serve(JSON.parse(line));
