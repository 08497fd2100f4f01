// The page: one conversation shown, one answer at a time.
import * as api from "./api.js";
import * as store from "./store.js";
import {AnswerView, conversation_item, element, stats_of, user_turn} from "./view.js";

const $ = (id) => document.getElementById(id);
const OPENERS = ["Explain how a loom weaves cloth, in three sentences", "Write a haiku about the sea",
                 "List five ideas for a rainy afternoon"];
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];

let current = store.new_conversation();
let running = null;  // {controller, view, message} of the answer under way
let following = true;  // the view keeps to the end of the log

// ---- what is shown ----

function say_status(text) {
  $("status").textContent = text;
}

function keep_to_end() {
  if (following) $("scroller").scrollTop = $("scroller").scrollHeight;
  $("latest").hidden = following;
}

function show_list() {
  const list = store.load_conversations();
  if (!list.some((item) => item.id === current.id) && current.messages.length) list.unshift(current);
  $("conversations").replaceChildren(...list.map((item) => conversation_item(item, item.id === current.id, {
    open: () => {
      open_conversation(item.id);
      toggle_sidebar(false);
    },
    remove: () => remove(item.id),
  })));
}

function answer_view(message) {
  return new AnswerView(message, {
    copy: (button) => copy(button, message.content),
    retry,
    painted: keep_to_end,
  });
}

function show_conversation() {
  $("log").setAttribute("aria-live", "off");
  $("log").replaceChildren(...current.messages.map((message) => {
    if (message.role === "user") return user_turn(message);
    const view = answer_view(message);
    view.paint(false);
    return view.node;
  }));
  $("log").setAttribute("aria-live", "polite");
  $("empty").hidden = current.messages.length > 0;
  $("title").textContent = store.title_of(current);
  document.title = current.messages.length ? `${store.title_of(current)} – Heddle` : "Heddle";
  $("system").value = current.system;
  $("export").disabled = current.messages.length === 0;
  following = true;
  keep_to_end();
}

function show_running() {
  $("send").classList.toggle("running", running !== null);
  $("send").setAttribute("aria-label", running ? "Stop" : "Send");
  $("send").disabled = !running && !$("message").value.trim();
}

function fit_message() {
  const field = $("message");
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight, innerHeight * 0.4)}px`;
  show_running();
}

// ---- conversations ----

function keep() {
  current.updated = Date.now();
  if (!store.save_conversation(current)) {
    say_status("This browser keeps no more conversations: its storage is full or forbidden.");
  }
  show_list();
}

function open_conversation(id) {
  stop();
  current = store.load_conversations().find((item) => item.id === id) ?? store.new_conversation();
  history.replaceState(null, "", current.messages.length ? `#${current.id}` : "#");
  show_conversation();
  show_list();
  $("message").focus();
}

function remove(id) {
  if (id === current.id && running) running.dropped = true;
  if (id === current.id) stop();
  store.remove_conversation(id);
  if (id === current.id) open_conversation("");
  else show_list();
  say_status("Conversation deleted");
}

function export_conversation() {
  const body = JSON.stringify({format: "heddle.conversation.1", ...current}, null, 2);
  const url = URL.createObjectURL(new Blob([body], {type: "application/json"}));
  const name = store.title_of(current).replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60);
  element("a", {href: url, download: `${name || "conversation"}.json`}).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

async function copy(button, text) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  setTimeout(() => { button.textContent = label; }, 1500);
}

// ---- answers ----

// Numbers that the fields hold; null where one holds no valid number.
function sampling() {
  const settings = {};
  for (const name of NUMBERS) {
    const field = $(name);
    if (!field.validity.valid) return null;
    if (field.value !== "") settings[name] = Number(field.value);
  }
  return settings;
}

function request_messages() {
  const messages = current.messages.filter((message) => message.role === "user" || message.content)
                       .map(({role, content}) => ({role, content}));
  if (current.system.trim()) messages.unshift({role: "system", content: current.system});
  return messages;
}

async function answer() {
  const settings = sampling();
  if (!settings) {
    toggle_settings(true);
    $("options").reportValidity();
    return;
  }
  const conversation = current;
  const messages = request_messages();
  const message = {role: "assistant", content: ""};
  const controller = new AbortController();
  const view = answer_view(message);
  conversation.messages.push(message);
  const mine = {controller, view, message};
  running = mine;
  $("log").append(view.node);
  view.paint(true);
  show_running();
  let pieces = 0;
  let first = 0;
  try {
    const result = await api.chat({
      messages, settings, key: store.load_key(), id: conversation.id, signal: controller.signal,
      on_text: (piece) => {
        first ||= performance.now();
        ++pieces;
        message.content += piece;
        view.grow();
      },
    });
    message.stats = {...stats_of(result, (performance.now() - first) / 1000), finish: result.finish};
    say_status("Answer complete");
  } catch (error) {
    if (error.name === "AbortError") {
      message.stopped = true;
      const seconds = (performance.now() - first) / 1000;
      if (pieces) message.stats = {tokens: pieces, rate: seconds > 0 ? pieces / seconds : 0, about: true};
      say_status("Stopped");
    } else {
      message.error = error.message;
      if (error.status === 401) toggle_settings(true, "key");
    }
  }
  view.paint(false);
  if (running === mine) running = null;
  conversation.updated = Date.now();
  if (!mine.dropped) store.save_conversation(conversation);
  show_list();
  show_running();
}

function stop() {
  running?.controller.abort();
}

function send() {
  const text = $("message").value.trim();
  if (!text || running) return;
  if (!sampling()) {
    toggle_settings(true);
    $("options").reportValidity();
    return;
  }
  $("message").value = "";
  fit_message();
  // An answer that failed before its first word makes room.
  const last = current.messages.at(-1);
  if (last?.role === "assistant" && !last.content) current.messages.splice(-2);
  current.messages.push({role: "user", content: text});
  show_conversation();
  history.replaceState(null, "", `#${current.id}`);
  keep();
  answer();
}

function retry() {
  if (running) return;
  while (current.messages.at(-1)?.role === "assistant") current.messages.pop();
  if (!current.messages.length) return;
  show_conversation();
  answer();
}

// ---- panels, theme, settings ----

function toggle_sidebar(open) {
  document.body.classList.toggle("sidebar-open", open);
  $("scrim").hidden = !open;
  $("open-sidebar").setAttribute("aria-expanded", String(open));
  if (open) $("new").focus();
}

function toggle_settings(open, field = "close-settings") {
  $("settings").hidden = !open;
  document.body.classList.toggle("settings-open", open);
  $("open-settings").setAttribute("aria-expanded", String(open));
  $(open ? field : "open-settings").focus();
}

function show_theme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const names = {auto: "as the system has them", light: "light", dark: "dark"};
  $("theme").setAttribute("aria-label", `Colours: ${names[theme]}`);
  $("theme").title = `Colours: ${names[theme]}`;
}

// auto, then the other of what the system has, then what it has, then auto again.
function next_theme() {
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const other = system === "dark" ? "light" : "dark";
  const theme = {auto: other, [other]: system, [system]: "auto"}[store.load_theme()] ?? "auto";
  store.save_theme(theme);
  show_theme(theme);
}

async function show_model() {
  try {
    $("model").textContent = await api.model_name(store.load_key());
  } catch (error) {
    $("model").textContent = error.status === 401 ? "API key needed" : "";
  }
}

function connect() {
  $("composer").onsubmit = (event) => {
    event.preventDefault();
    if (running) stop();
    else send();
  };
  $("message").oninput = fit_message;
  $("message").onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  };
  document.onkeydown = (event) => {
    if (event.key !== "Escape") return;
    if (running) stop();
    else if (document.body.classList.contains("sidebar-open")) toggle_sidebar(false);
    else if (!$("settings").hidden) toggle_settings(false);
  };
  $("scroller").onscroll = () => {
    const box = $("scroller");
    following = box.scrollHeight - box.scrollTop - box.clientHeight < 48;
    $("latest").hidden = following;
  };
  $("log").onclick = (event) => {
    const button = event.target.closest(".copy");
    if (button) copy(button, button.closest("figure").querySelector("code").textContent);
  };
  $("latest").onclick = () => {
    following = true;
    keep_to_end();
    $("message").focus();
  };
  $("new").onclick = () => {
    toggle_sidebar(false);
    open_conversation("");
  };
  $("export").onclick = export_conversation;
  $("theme").onclick = next_theme;
  $("open-sidebar").onclick = () => toggle_sidebar(true);
  $("close-sidebar").onclick = () => toggle_sidebar(false);
  $("scrim").onclick = () => toggle_sidebar(false);
  $("open-settings").onclick = () => toggle_settings($("settings").hidden);
  $("close-settings").onclick = () => toggle_settings(false);
  $("options").onsubmit = (event) => event.preventDefault();
  $("options").oninput = (event) => {
    const {id, value} = event.target;
    if (id === "key") {
      store.save_key(value.trim());
      return;
    }
    if (id === "system") {
      current.system = value;
      if (current.messages.length) keep();
      return;
    }
    store.save_settings(Object.fromEntries(NUMBERS.map((name) => [name, $(name).value])));
  };
  $("key").onchange = show_model;
  $("defaults").onclick = () => {
    for (const name of NUMBERS) $(name).value = "";
    store.save_settings({});
    say_status("Sampling settings are back to the defaults");
  };
  addEventListener("storage", show_list);  // another tab wrote
  addEventListener("resize", fit_message);
}

function start() {
  $("openers").replaceChildren(...OPENERS.map((text) => element("li", {}, element("button", {
    type: "button",
    onclick: () => {
      $("message").value = text;
      fit_message();
      $("message").focus();
    },
  }, text))));
  const settings = store.load_settings();
  for (const name of NUMBERS) $(name).value = settings[name] ?? "";
  $("key").value = store.load_key();
  show_theme(store.load_theme());
  connect();
  open_conversation(location.hash.slice(1));
  show_model();
  fit_message();
}

start();
