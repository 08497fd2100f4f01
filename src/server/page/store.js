// What the browser keeps: conversations and settings in localStorage, the API key in sessionStorage.
// Storage may be forbidden, full, or hold what another version wrote: reading never throws, and
// writing says whether it worked.

const CONVERSATIONS = "heddle.conversations";
const SETTINGS = "heddle.settings";
const THEME = "heddle.theme";
const KEY = "heddle.key";

function read(storage, name) {
  try {
    return window[storage].getItem(name);
  } catch {
    return null;
  }
}

function write(storage, name, value) {
  try {
    if (value) window[storage].setItem(name, value);
    else window[storage].removeItem(name);
    return true;
  } catch {
    return false;
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

const is_text = (value) => typeof value === "string";

function checked_message(message) {
  if (!message || !["user", "assistant"].includes(message.role) || !is_text(message.content)) return null;
  const kept = {role: message.role, content: message.content};
  if (message.stats && typeof message.stats === "object") kept.stats = message.stats;
  if (is_text(message.error)) kept.error = message.error;
  if (message.stopped) kept.stopped = true;
  return kept;
}

function checked_conversation(item) {
  if (!item || !is_text(item.id) || !Array.isArray(item.messages)) return null;
  return {
    id: item.id,
    updated: Number(item.updated) || 0,
    system: is_text(item.system) ? item.system : "",
    messages: item.messages.map(checked_message).filter(Boolean),
  };
}

export function new_conversation() {
  return {id: crypto.randomUUID?.() ?? String(Date.now()) + Math.random(), updated: Date.now(), system: "", messages: []};
}

export function load_conversations() {
  const list = parse(read("localStorage", CONVERSATIONS));
  if (!Array.isArray(list)) return [];
  return list.map(checked_conversation).filter(Boolean).sort((a, b) => b.updated - a.updated);
}

// Another tab may have written since: only `changed` and `removed` are this tab's to decide.
export function save_conversation(changed) {
  const others = load_conversations().filter((item) => item.id !== changed.id);
  const list = changed.messages.length || changed.system ? [changed, ...others] : others;
  return write("localStorage", CONVERSATIONS, JSON.stringify(list));
}

export function remove_conversation(id) {
  const list = load_conversations().filter((item) => item.id !== id);
  return write("localStorage", CONVERSATIONS, JSON.stringify(list));
}

export function load_settings() {
  const settings = parse(read("localStorage", SETTINGS));
  return settings && typeof settings === "object" && !Array.isArray(settings) ? settings : {};
}
export const save_settings = (settings) => write("localStorage", SETTINGS, JSON.stringify(settings));

export const load_theme = () => read("localStorage", THEME) ?? "auto";
export const save_theme = (theme) => write("localStorage", THEME, theme === "auto" ? "" : theme);

export const load_key = () => read("sessionStorage", KEY) ?? "";
export const save_key = (key) => write("sessionStorage", KEY, key);

export function title_of(conversation) {
  const first = conversation.messages.find((message) => message.role === "user");
  const line = first?.content.trim().split("\n")[0] ?? "";
  return line ? (line.length > 80 ? `${line.slice(0, 79)}…` : line) : "New conversation";
}
