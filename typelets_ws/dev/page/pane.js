/** One device: its connection, its notes, and every message that comes and goes. */

import { api } from "./api.js";
import { Client } from "./client.js";
import { el, fill, setValue } from "./dom.js";
import { Log } from "./log.js";
import { Notes } from "./notes.js";

const WORDS = {
  offline: "offline",
  connecting: "connecting",
  online: "online",
  waiting: "waiting",
  "signed-out": "signed out",
  closed: "closed",
};

export class Pane {
  sessionId = "";
  user = "";

  #client;
  #notes;
  #log = new Log();
  #state = "offline";
  #open = ""; // the id of the note that is open
  #joined = "";
  #parts;
  #changed;

  /** `changed(pane)` is called when its user or session changes, or it is removed. */
  constructor(name, users, changed) {
    this.name = name;
    this.#changed = changed;
    this.#build(users);
    this.signIn(users[0]);
  }

  /** Become a device of this user, with a session of its own. */
  signIn(user) {
    this.#client?.stop();
    this.user = user;
    this.sessionId = `sess_${this.name.toLowerCase()}_${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
    this.#open = "";
    const client = new Client(
      `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/`,
      () => api.token(this.user, this.sessionId),
      {
        state: (state, details) => this.#became(state, details),
        sent: (message, signed) => this.#log.sent(message, signed),
        received: (message) => {
          this.#log.received(message);
          this.#notes.receive(message);
        },
        refetch: () => this.#notes.refetch(),
      },
    );
    client.signed = this.#parts.signed.checked;
    this.#client = client;
    this.#notes = new Notes(client, () => api.notes(user), (error) => this.#render(error));
    this.#render();
    this.#changed(this);
    client.start();
  }

  // The connection.

  #became(state, { waitMs, code, reason }) {
    this.#state = state;
    this.#joined = "";
    const why = [code, reason].filter(Boolean).join(" ");
    const wait = waitMs === undefined ? "" : `, again in ${(waitMs / 1000).toFixed(1)} s`;
    if (state !== "connecting") this.#log.note(WORDS[state] + (why && `: ${why}`) + wait);
    if (state === "online") this.#join();
    this.#parts.why.textContent = state === "online" ? "" : why + wait;
    this.#render();
  }

  /** Tell the server which note is open here. */
  #join() {
    if (!this.#client.online || this.#joined === this.#open) return;
    if (this.#joined) this.#client.send({ type: "leave_note", noteId: this.#joined });
    if (this.#open) this.#client.send({ type: "join_note", noteId: this.#open });
    this.#joined = this.#open;
  }

  #toggle() {
    if (this.#state === "signed-out") this.signIn(this.user);
    else if (this.#state === "offline" || this.#state === "closed") this.#client.start();
    else this.#client.stop();
  }

  // What is shown.

  #render(error) {
    const { element, state, toggle, tabs, title, content, star, saved } = this.#parts;
    element.dataset.state = this.#state;
    state.textContent = WORDS[this.#state];
    toggle.textContent = { offline: "Go online", closed: "Go online", "signed-out": "Sign in again" }[this.#state] ?? "Go offline";
    const notes = this.#notes.all();
    if (!notes.some(({ id }) => id === this.#open)) this.#open = notes[0]?.id ?? "";
    this.#join();
    tabs.replaceChildren(...notes.map((note) => this.#tab(note)));
    this.#renderFolders();
    const note = this.#notes.get(this.#open);
    for (const part of [title, content, star]) part.disabled = !note || this.#state === "signed-out";
    setValue(title, note?.title ?? "");
    setValue(content, note?.content ?? "");
    star.textContent = note?.starred ? "★" : "☆";
    star.setAttribute("aria-pressed", Boolean(note?.starred));
    saved.textContent = error?.message ?? this.#savedWords(note);
    saved.classList.toggle("refused", Boolean(error));
  }

  #savedWords(note) {
    if (!note) return "";
    if (this.#notes.isSaved(note.id)) return `stored ${note.updatedAt.slice(11, 23)} UTC`;
    return this.#state === "online" ? "sending …" : "not sent yet";
  }

  #renderFolders() {
    const names = [...this.#notes.folders.values()].map(({ name }) => name);
    this.#parts.folders.textContent = names.length ? `Folders: ${names.join(", ")}` : "No folders";
  }

  #tab(note) {
    return el(
      "button",
      {
        type: "button",
        "aria-pressed": note.id === this.#open,
        onclick: () => {
          this.#open = note.id;
          this.#render();
        },
      },
      (note.starred ? "★ " : "") + (note.title || "Untitled"),
    );
  }

  #edit(changes) {
    this.#notes.edit(this.#open, changes);
  }

  #build(users) {
    const button = (text, onclick) => el("button", { type: "button", onclick }, text);
    const label = (text) => `${text} of ${this.name}`;
    const parts = {
      state: el("span", { className: "state", role: "status" }),
      why: el("span", { className: "why" }),
      user: el("select", { "aria-label": label("User"), onchange: (event) => this.signIn(event.target.value) }),
      signed: el("input", {
        type: "checkbox",
        disabled: !crypto.subtle,
        onchange: (event) => (this.#client.signed = event.target.checked),
      }),
      toggle: button("", () => this.#toggle()),
      tabs: el("div", { className: "tabs" }),
      title: el("input", { "aria-label": label("Title"), oninput: (event) => this.#edit({ title: event.target.value }) }),
      star: button("☆", () => this.#edit({ starred: !this.#notes.get(this.#open).starred })),
      content: el("textarea", {
        rows: 5,
        "aria-label": label("Content"),
        oninput: (event) => this.#edit({ content: event.target.value }),
      }),
      saved: el("span", { className: "saved" }),
      folders: el("span", { className: "folders" }),
    };
    fill(parts.user, users.map((user) => [user, user]));
    parts.star.classList.add("star");
    parts.star.setAttribute("aria-label", label("Star"));
    parts.element = el(
      "section",
      { className: "card pane", "aria-label": this.name },
      el("header", {}, el("h2", {}, this.name), parts.state, el("button", {
        type: "button",
        className: "quiet",
        title: "Remove this device",
        "aria-label": `Remove ${this.name}`,
        onclick: () => this.#remove(),
      }, "×")),
      el("div", { className: "controls" }, parts.user, el("label", { title: "HMAC-SHA256 over every message" }, parts.signed, "signed"), parts.toggle),
      parts.why,
      parts.tabs,
      el("div", { className: "note" }, el("div", { className: "title" }, parts.title, parts.star), parts.content),
      el("footer", {}, parts.saved, parts.folders),
      el("div", { className: "loghead" }, el("h3", {}, "Messages"), button("Clear", () => this.#log.clear())),
      this.#log.element,
    );
    this.#parts = parts;
    this.element = parts.element;
  }

  #remove() {
    this.#client.stop();
    this.element.remove();
    this.#changed(this);
  }
}
