// The page around its parts: the connection, the choice of a part, and the line that says how things stand.

import { Socket } from "./socket.js";

export const $ = (id) => document.getElementById(id);

const parts = new Map();
let socket = null;
let shown = null;

// Adds a part: the element of that id. onMessage(message, bytes); onOpen(): the connection stands, again perhaps;
// onShow() and onHide(): the visitor goes to it, or away. Returns what sends messages to the playground.
export function addPart(name, { onMessage, onOpen = () => {}, onShow = () => {}, onHide = () => {} }) {
  parts.set(name, { onMessage, onOpen, onShow, onHide });
  return {
    get isOpen() { return socket !== null && socket.isOpen; },
    get isShown() { return shown === name; },
    send: (type, fields = {}, bytes = null) => socket !== null && socket.send({ part: name, type, ...fields }, bytes),
  };
}

export function say(text, isFailure = false) {
  $("state").textContent = text;
  $("state").classList.toggle("failed", isFailure);
}

export function start() {
  addEventListener("hashchange", show);
  show();
  socket = new Socket(
    (message, bytes) => {
      if (message.type === "failed" || message.part === "page") say(message.text, true);
      else parts.get(message.part).onMessage(message, bytes);
    },
    (isOpen) => {
      if (!isOpen) say("the playground does not answer; was it ended?", true);
      else for (const { onOpen } of parts.values()) onOpen();
    },
  );
}

function show() {
  const asked = location.hash.slice(1);
  const name = parts.has(asked) ? asked : parts.keys().next().value;
  if (name === shown) return;
  const before = shown;
  shown = name;
  for (const each of parts.keys()) $(each).hidden = each !== name;
  for (const link of $("parts").querySelectorAll("a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (before !== null) parts.get(before).onHide();
  parts.get(name).onShow();
}
