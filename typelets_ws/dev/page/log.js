/** The messages of one device, newest first, each to be opened. */

import { clock, el } from "./dom.js";

const MOST_LINES = 100;
const SECRETS = new Set(["token", "sessionSecret"]); // a screen may be shared

export class Log {
  element = el("ol", { className: "log" });

  sent(message, signed) {
    this.#add("sent", message, signed);
  }

  received(message) {
    this.#add("received", message, false);
  }

  /** Something that is no message: connected, closed ... */
  note(text) {
    this.#put(el("li", { className: "remark" }, el("span", {}, text), el("time", {}, clock())));
  }

  clear() {
    this.element.replaceChildren();
  }

  #add(way, message, signed) {
    const shown = JSON.stringify(
      message,
      (key, value) => (SECRETS.has(key) ? `${String(value).slice(0, 8)}…` : value),
      2,
    );
    const summary = el(
      "summary",
      {},
      el("span", { className: "way", role: "img", "aria-label": way }, way === "sent" ? "↑" : "↓"),
      el("code", {}, message.type),
      el("span", { className: "hint" }, signed ? "signed" : hint(message)),
      el("time", {}, clock()),
    );
    const details = el("details", {}, summary, el("pre", {}, shown));
    this.#put(el("li", { className: way, data: { type: message.type } }, details));
  }

  #put(line) {
    this.element.prepend(line);
    while (this.element.children.length > MOST_LINES) this.element.lastChild.remove();
  }
}

/** The few words of a message that tell most. */
function hint(message) {
  const data = message.changes ?? message.noteData ?? message.folderData ?? {};
  return (
    message.reason ??
    (message.type === "error" ? message.message : null) ??
    data.title ??
    data.name ??
    data.content ??
    ""
  );
}
