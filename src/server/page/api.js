// The server's OpenAI-compatible endpoints, as the page needs them.

export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

function headers(key, more = {}) {
  return {"Content-Type": "application/json", ...(key ? {Authorization: `Bearer ${key}`} : {}), ...more};
}

async function refusal(response) {
  let message = "";
  try {
    message = (await response.json()).error?.message ?? "";
  } catch {
    // a proxy's own page, perhaps
  }
  if (response.status === 401) {
    return new ApiError("This server wants an API key. Enter it in the settings, then retry.", 401);
  }
  return new ApiError(message || `The server answered with status ${response.status}.`, response.status);
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it still running?");
  }
}

export async function model_name(key) {
  const response = await reach("v1/models", {headers: headers(key)});
  if (!response.ok) throw await refusal(response);
  return (await response.json()).data?.[0]?.id ?? "";
}

// The data of server-sent events, as they come.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const {value, done} = await reader.read();
      if (done) break;
      rest += value;
      const lines = rest.split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) yield line.slice(5).trim();
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Streams an answer. on_text(piece) for each piece; resolves to {finish, usage, timings}.
export async function chat({messages, settings, key, id, signal, on_text}) {
  const response = await reach("v1/chat/completions", {
    method: "POST",
    headers: headers(key, {"X-Conversation-Id": id}),
    body: JSON.stringify({messages, stream: true, stream_options: {include_usage: true}, ...settings}),
    signal,
  });
  if (!response.ok) throw await refusal(response);
  const result = {finish: "", usage: null, timings: null};
  let ended = false;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") {
        ended = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message ?? "The answer failed inside the server.");
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) on_text(choice.delta.content);
      if (choice?.finish_reason) result.finish = choice.finish_reason;
      if (chunk.usage) result.usage = chunk.usage;
      if (chunk.timings) result.timings = chunk.timings;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError("The connection broke while the answer was written.");
  }
  if (!ended && !result.finish) throw new ApiError("The answer ended early: the connection was closed.");
  return result;
}
