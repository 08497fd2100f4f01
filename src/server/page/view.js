// Turns and the list of conversations as DOM nodes.
import {render} from "./markdown.js";
import {title_of} from "./store.js";

export function element(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria-")) node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}

const number = new Intl.NumberFormat("en", {maximumFractionDigits: 0});
const precise = (value) => (value < 10 ? value.toFixed(1) : number.format(value));

// What an answer cost: {tokens, rate, prompt, cached, first}; `about` where this page counted itself.
export function stats_of(result, seconds) {
  const usage = result.usage ?? {};
  const timings = result.timings ?? {};
  const tokens = usage.completion_tokens ?? 0;
  return {
    tokens,
    rate: timings.predicted_per_second || (seconds > 0 ? tokens / seconds : 0),
    prompt: usage.prompt_tokens ?? 0,
    cached: usage.prompt_tokens_details?.cached_tokens ?? 0,
    first: (timings.queue_ms ?? 0) + (timings.prompt_ms ?? 0),
  };
}

function stats_line(stats) {
  const figure = (value, unit, name) => {
    const node = element("span", {className: "figure", title: name}, element("b", {}, value), ` ${unit}`);
    return node;
  };
  const about = stats.about ? "about " : "";
  const line = element("p", {className: "stats"});
  line.append(figure(about + number.format(stats.tokens), "tokens", "Tokens of the answer"));
  if (stats.rate > 0) line.append(figure(precise(stats.rate), "tokens/s", "Speed of the answer"));
  if (stats.prompt > 0) {
    line.append(figure(`${number.format(stats.cached)} of ${number.format(stats.prompt)}`, "cached",
                       "Prompt tokens that were not read again"));
  }
  if (stats.first > 0) line.append(figure(precise(stats.first), "ms to first", "From the queue to the first token"));
  return line;
}

export function user_turn(message) {
  const text = element("div", {className: "said"});
  text.textContent = message.content;
  return element("article", {className: "turn user"}, element("h2", {className: "who"}, "You"), text);
}

// An answer that grows. Frames are painted at most once per animation frame, and seldom when long.
export class AnswerView {
  constructor(message, actions) {
    this.message = message;
    this.body = element("div", {className: "prose"});
    this.foot = element("footer", {className: "foot"});
    this.node = element("article", {className: "turn assistant"},
                        element("h2", {className: "who"}, "Heddle"), this.body, this.foot);
    this.actions = actions;
    this.painted = 0;
    this.pending = 0;
  }

  grow() {
    if (this.pending) return;
    const wait = this.message.content.length > 20000 ? 250 : 0;
    this.pending = requestAnimationFrame((now) => {
      this.pending = 0;
      if (now - this.painted < wait) return this.grow();
      this.painted = now;
      this.paint(true);
    });
  }

  paint(running) {
    const {message} = this;
    if (!running) cancelAnimationFrame(this.pending);
    this.node.classList.toggle("running", running);
    this.node.setAttribute("aria-busy", String(running));
    this.body.replaceChildren(render(message.content));
    this.foot.replaceChildren();
    if (!running) {
      if (message.error) this.foot.append(element("p", {className: "error", role: "alert"}, message.error));
      const line = message.stats ? stats_line(message.stats) : element("p", {className: "stats"});
      if (message.stopped) line.append(element("span", {className: "figure"}, "stopped"));
      if (message.stats?.finish === "length") line.append(element("span", {className: "figure"}, "cut off at the limit"));
      const buttons = element("div", {className: "actions"});
      if (message.content) buttons.append(this.button("Copy", this.actions.copy));
      buttons.append(this.button("Retry", this.actions.retry, "retry"));
      this.foot.append(element("div", {className: "footline"}, line, buttons));
    }
    this.actions.painted();
  }

  button(label, act, extra = "") {
    return element("button", {type: "button", className: `quiet ${extra}`, onclick: (event) => act(event.currentTarget)}, label);
  }
}

const CROSS = "M6 6l8 8M14 6l-8 8";

function icon(path) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  const shape = document.createElementNS(space, "path");
  shape.setAttribute("d", path);
  svg.append(shape);
  return svg;
}

// A first press of the cross asks, a second one within three seconds deletes.
function delete_button(title, remove) {
  const button = element("button", {type: "button", className: "delete", "aria-label": `Delete: ${title}`}, icon(CROSS));
  let armed = 0;
  const disarm = () => {
    clearTimeout(armed);
    armed = 0;
    button.classList.remove("armed");
    button.setAttribute("aria-label", `Delete: ${title}`);
    button.replaceChildren(icon(CROSS));
  };
  button.onclick = () => {
    if (armed) return remove();
    armed = setTimeout(disarm, 3000);
    button.classList.add("armed");
    button.setAttribute("aria-label", `Really delete: ${title}`);
    button.textContent = "Delete?";
  };
  button.onblur = disarm;
  return button;
}

export function conversation_item(conversation, current, actions) {
  const title = title_of(conversation);
  const open = element("button", {type: "button", className: "open", title, onclick: actions.open}, title);
  if (current) open.setAttribute("aria-current", "true");
  return element("li", {}, open, delete_button(title, actions.remove));
}
