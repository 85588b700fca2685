/** One device: its connection, its notes, and every message that comes and goes. */

import { TypeletsClient } from "/typelets-client.js";
import { api } from "./api.js";
import { action, el, fill, keyed, setValue } from "./dom.js";
import { Log } from "./log.js";

export class Pane {
  sessionId = "";
  user = "";

  #client;
  #log = new Log();
  #why = {};
  #noted = "";
  #conflicts = new Map();
  #open = ""; // the id of the note that is open
  #joined = ""; // connection and note of the last join_note
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
    this.#conflicts.clear();
    const client = new TypeletsClient(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/`, {
      getToken: () => api.token(user, this.sessionId),
      sign: this.#parts.signed.checked,
    });
    this.#client = client;
    this.#parts.failure.textContent = "";
    client.on("status", (event) => this.#became(event));
    client.on("change", () => this.#render());
    client.on("conflict", (conflict) => {
      this.#conflicts.set(conflict.noteId, conflict);
      this.#render();
    });
    client.on("refetch", () => api.notes(user).then((all) => client.replace(all), (error) => this.#failed(error)));
    client.on("error", (error) => this.#failed(error));
    client.on("message", (message) => this.#log.received(message));
    client.on("sent", ({ message, signed }) => this.#log.sent(message, signed));
    client.start();
    this.#changed(this);
  }

  // The connection.

  #became({ status, reason, code, retryInMs, pending }) {
    const why = [code, reason].filter(Boolean).join(" ");
    const wait = retryInMs === undefined ? "" : `, again in ${(retryInMs / 1000).toFixed(1)} s`;
    // An edit makes the status change twice; the messages show it already.
    const noted = status + (why && `: ${why}`) + wait;
    if (pending === 0 && status !== "connecting" && noted !== this.#noted) this.#log.note((this.#noted = noted));
    if (status === "in sync") this.#parts.failure.textContent = "";
    this.#why = { status, reason, text: reason === "stopped" ? "" : why + wait };
    this.#render();
  }

  #failed(error) {
    this.#log.note(error.message);
    this.#parts.failure.textContent = error.message;
  }

  /** Tell the server which note is open here, once per connection and note. */
  #join() {
    const { connectionId } = this.#client;
    const joined = connectionId && this.#open ? `${connectionId} ${this.#open}` : "";
    if (!connectionId || joined === this.#joined) return;
    const [connection, before] = this.#joined.split(" ");
    if (before && connection === connectionId) this.#tell("leave_note", before);
    this.#joined = joined;
    if (joined) this.#tell("join_note", this.#open);
  }

  #tell(type, noteId) {
    this.#client.request({ type, noteId }).catch((error) => {
      if (error.code !== "DISCONNECTED") this.#failed(error); // the next connection joins again
    });
  }

  #toggle() {
    if (this.#why.reason === "signed out") this.signIn(this.user);
    else if (this.#isStopped) this.#client.start();
    else this.#client.stop();
  }

  /** Whether the client has given up connecting until `start` is called. */
  get #isStopped() {
    return this.#client.status === "offline" && !this.#why.text.includes("again in");
  }

  // What is shown.

  #render() {
    const { element, state, why, toggle, tabs, title, content, star, saved, folders } = this.#parts;
    const { status } = this.#client;
    const signedOut = this.#why.reason === "signed out";
    element.dataset.state = signedOut ? "signed-out" : status.replaceAll(" ", "-");
    state.textContent = signedOut ? "signed out" : status;
    why.textContent = status === "offline" && !signedOut ? this.#why.text ?? "" : "";
    toggle.textContent = signedOut ? "Sign in again" : this.#isStopped ? "Go online" : "Go offline";
    const notes = this.#client.list().filter((note) => !note.deleted).sort((a, b) => (a.createdAt + a.id < b.createdAt + b.id ? -1 : 1));
    // The first one is known when all are: until then events may show some.
    if (!this.#open && status !== "in sync") notes.length = 0;
    if (!notes.some(({ id }) => id === this.#open)) this.#open = notes[0]?.id ?? "";
    this.#join();
    keyed(tabs, notes, ({ id }) => id, (note) => this.#tab(note.id), (button, note) => {
      const text = (note.starred ? "★ " : "") + (note.title || "Untitled");
      if (button.textContent !== text) button.textContent = text;
      button.setAttribute("aria-pressed", note.id === this.#open);
    });
    this.#parts.noNotes.hidden = notes.length > 0 || status !== "in sync";
    const names = [...this.#client.folders.values()].map(({ name }) => name);
    folders.textContent = names.length ? `Folders: ${names.join(", ")}` : "No folders";
    const note = this.#client.get(this.#open);
    for (const part of [title, content]) part.disabled = this.#obstacle() !== "";
    setValue(title, note?.title ?? "");
    setValue(content, note?.content ?? "");
    star.textContent = note?.starred ? "★" : "☆";
    star.setAttribute("aria-pressed", Boolean(note?.starred));
    star.check();
    saved.textContent = this.#savedWords(note);
    this.#renderConflict();
  }

  /** Why the open note cannot be edited, or "". */
  #obstacle() {
    if (this.#why.reason === "signed out") return "Signed out: sign in again to edit.";
    if (this.#open) return "";
    return this.#client?.status === "in sync" ? "There is no note to edit: create one on the REST side." : "The notes are not here yet.";
  }

  #savedWords(note) {
    if (this.#why.reason === "signed out") return this.#obstacle();
    if (!note) return "";
    if (this.#conflicts.has(note.id)) return "not stored: changed elsewhere";
    if (!this.#client.isPending(note.id)) return `stored ${note.updatedAt.slice(11, 23)} UTC`;
    return this.#client.connectionId ? "sending …" : "not sent yet";
  }

  #renderConflict() {
    const { conflict, conflictText } = this.#parts;
    for (const id of this.#conflicts.keys()) if (!this.#client.isPending(id)) this.#conflicts.delete(id);
    const found = this.#conflicts.get(this.#open) ?? this.#conflicts.values().next().value;
    conflict.hidden = !found;
    if (!found) return;
    conflict.dataset.note = found.noteId;
    const { changes, theirs, error } = found;
    const name = Object.keys(changes)[0];
    const here = `Here: “${changes[name]}”.`;
    if (error) conflictText.textContent = `Refused: ${error.message}. ${here}`;
    else conflictText.textContent = theirs ? `${name} was changed elsewhere to “${theirs[name]}”. ${here}` : `The note was deleted elsewhere. ${here}`;
    this.#parts.keep.check();
  }

  #resolve(mine) {
    const found = this.#conflicts.get(this.#parts.conflict.dataset.note);
    this.#conflicts.delete(found.noteId);
    this.#client.resolve(found.noteId, mine ? found.changes : null);
    this.#render();
    this.#parts.content.focus();
  }

  #tab(id) {
    return action("", () => {
      this.#open = id;
      this.#render();
    });
  }

  #edit(changes) {
    this.#client.edit(this.#open, changes);
  }

  #build(users) {
    const label = (text) => `${text} of ${this.name}`;
    const parts = {
      state: el("span", { className: "state", role: "status" }),
      why: el("p", { className: "why" }),
      failure: el("p", { className: "failure", role: "alert" }),
      user: el("select", { "aria-label": label("User"), onchange: (event) => this.signIn(event.target.value) }),
      signed: el("input", { type: "checkbox", onchange: (event) => (this.#client.sign = event.target.checked) }),
      toggle: action("", () => this.#toggle()),
      tabs: el("div", { className: "tabs", role: "group", "aria-label": label("Notes") }),
      noNotes: el("p", { className: "empty", hidden: true }, "No notes yet. The REST side can create one."),
      title: el("input", { "aria-label": label("Title"), oninput: (event) => this.#edit({ title: event.target.value }) }),
      star: action("☆", () => this.#edit({ starred: !this.#client.get(this.#open).starred }), { why: () => this.#obstacle() }),
      content: el("textarea", { rows: 5, "aria-label": label("Content"), oninput: (event) => this.#edit({ content: event.target.value }) }),
      conflictText: el("p", {}),
      keep: action("Keep mine", () => this.#resolve(true), {
        why: () => (this.#conflicts.get(this.#parts?.conflict.dataset.note)?.theirs === null ? "The note is gone." : ""),
      }),
      saved: el("span", { className: "saved" }),
      folders: el("span", { className: "folders" }),
    };
    fill(parts.user, users.map((user) => [user, user]), "no users");
    parts.star.classList.add("star");
    parts.star.setAttribute("aria-label", label("Star"));
    parts.conflict = el("div", { className: "conflict", role: "group", "aria-label": label("Conflict"), hidden: true },
      parts.conflictText, parts.keep, action("Take theirs", () => this.#resolve(false)));
    parts.element = el(
      "section",
      { className: "card pane", "aria-label": this.name },
      el("header", {}, el("h2", {}, this.name), parts.state, action("×", () => this.#remove(), {
        className: "quiet",
        title: "Remove this device",
        "aria-label": `Remove ${this.name}`,
      })),
      el("div", { className: "controls" }, parts.user, el("label", { title: "HMAC-SHA256 over every message" }, parts.signed, "signed"), parts.toggle),
      parts.why,
      parts.failure,
      parts.tabs,
      parts.noNotes,
      el("div", { className: "note" }, el("div", { className: "title" }, parts.title, parts.star), parts.content),
      parts.conflict,
      el("footer", {}, parts.saved, parts.folders),
      el("div", { className: "loghead" }, el("h3", {}, "Messages"), action("Clear", () => this.#log.clear(), { "aria-label": `Clear messages of ${this.name}` })),
      this.#log.element,
    );
    this.#log.element.setAttribute("aria-label", label("Messages"));
    this.#parts = parts;
    this.element = parts.element;
  }

  #remove() {
    this.#client.stop();
    this.element.remove();
    this.#changed(this);
  }
}
