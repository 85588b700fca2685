/** The REST side: what a REST service does, by hand. Each button writes and publishes. */

import { api } from "./api.js";
import { clock, el, fill } from "./dom.js";

const MOST_LINES = 30;

/** Buttons by what they are about; each is one kind of event. */
const KINDS = {
  note: [["note_created", "Create"], ["note_updated", "Rename"], ["note_deleted", "Delete"]],
  folder: [["folder_created", "Create"], ["folder_updated", "Rename"], ["folder_deleted", "Delete"]],
  session: [["session_revoked", "Revoke"]],
  user: [["user_disconnected", "Disconnect"], ["resync_required", "Ask to resync"]],
};

export class RestSide {
  #user = el("select", { "aria-label": "User" });
  #note = el("select", { "aria-label": "Note" });
  #folder = el("select", { "aria-label": "Folder" });
  #session = el("select", { "aria-label": "Session" });
  #name = el("input", { "aria-label": "Name", value: "Named by REST", maxLength: 80 });
  #log = el("ol", { className: "log" });
  #panes;

  /** `panes()` are the devices on this page, for their sessions. */
  constructor(users, panes) {
    this.#panes = panes;
    fill(this.#user, users.map((user) => [user, user]));
    this.#user.onchange = () => this.refresh();
    this.element = el(
      "section",
      { className: "card rest", "aria-label": "REST side" },
      el("header", {}, el("h2", {}, "REST service")),
      el("p", {}, "Writes to Postgres, then publishes on Redis. Every device of the user hears of it."),
      this.#row("User", this.#user, KINDS.user, () => ""),
      this.#row("Name", this.#name, [], () => ""),
      this.#row("Note", this.#note, KINDS.note, () => this.#note.value),
      this.#row("Folder", this.#folder, KINDS.folder, () => this.#folder.value),
      this.#row("Session", this.#session, KINDS.session, () => this.#session.value),
      el("div", { className: "loghead" }, el("h3", {}, "Published")),
      this.#log,
    );
    this.refresh();
  }

  /** Look again at what there is to choose from. */
  async refresh() {
    const user = this.#user.value;
    const sessions = this.#panes().filter((pane) => pane.user === user);
    fill(this.#session, sessions.map(({ sessionId, name }) => [sessionId, `${name} (${sessionId})`]));
    const { notes, folders } = await api.notes(user);
    fill(this.#note, notes.map(({ id, title }) => [id, title]));
    fill(this.#folder, folders.map(({ id, name }) => [id, name]));
  }

  #row(title, field, kinds, subject) {
    const buttons = kinds.map(([event, text]) =>
      el("button", { type: "button", title: event, data: { event }, onclick: () => this.#publish(event, subject()) }, text),
    );
    return el("div", { className: "row" }, el("span", {}, title), field, el("div", { className: "buttons" }, ...buttons));
  }

  async #publish(event, subject) {
    let line;
    try {
      const { published, heard } = await api.publish(this.#user.value, event, { subject, name: this.#name.value });
      const hint = `${heard} process${heard === 1 ? "" : "es"} heard it`;
      line = details(event, hint, JSON.stringify(published, null, 2));
    } catch (error) {
      line = details(event, error.message, String(error));
    }
    this.#log.prepend(line);
    while (this.#log.children.length > MOST_LINES) this.#log.lastChild.remove();
    await this.refresh();
  }
}

function details(event, hint, text) {
  const summary = el(
    "summary",
    {},
    el("span", { className: "way" }, "→"),
    el("code", {}, event),
    el("span", { className: "hint" }, hint),
    el("time", {}, clock()),
  );
  return el("li", { data: { type: event } }, el("details", {}, summary, el("pre", {}, text)));
}
