/** The REST side: what a REST service does, by hand. Each button writes and publishes. */

import { api } from "./api.js";
import { action, clock, el, fail, fill, say } from "./dom.js";

const MOST_LINES = 30;

/** Buttons by what they are about; each is one kind of event. */
const KINDS = {
  note: [["note_created", "Create"], ["note_updated", "Rename"], ["note_deleted", "Delete"]],
  folder: [["folder_created", "Create"], ["folder_updated", "Rename"], ["folder_deleted", "Delete"]],
  session: [["session_revoked", "Revoke"]],
  user: [["user_disconnected", "Disconnect"], ["resync_required", "Ask to resync"]],
};
const CLOCKS = [[0, "right"], [-3600, "an hour behind"], [3600, "an hour ahead"]];

export class RestSide {
  #user = el("select", { "aria-label": "User", onchange: () => this.refresh() });
  #note = el("select", { "aria-label": "Note" });
  #folder = el("select", { "aria-label": "Folder" });
  #session = el("select", { "aria-label": "Session" });
  #clock = el("select", { "aria-label": "Clock" });
  #silent = el("input", { type: "checkbox" });
  #name = el("input", { "aria-label": "Name", value: "Named by REST", maxLength: 80 });
  #log = el("ol", { className: "log", "aria-label": "Published events" });
  #buttons = [];
  #panes;

  /** `panes()` are the devices on this page, for their sessions. */
  constructor(users, panes) {
    this.#panes = panes;
    fill(this.#user, users.map((user) => [user, user]), "no users");
    fill(this.#clock, CLOCKS);
    this.element = el(
      "section",
      { className: "card rest", "aria-label": "REST side" },
      el("header", {}, el("h2", {}, "REST service")),
      el("p", {}, "Writes to Postgres, then publishes on Redis. Every device of the user hears of it."),
      this.#row("User", this.#user, KINDS.user),
      this.#row("Name", this.#name, []),
      this.#row("Note", this.#note, KINDS.note),
      this.#row("Folder", this.#folder, KINDS.folder),
      this.#row("Session", this.#session, KINDS.session),
      this.#row("Clock", this.#clock, []),
      el("label", { className: "check" }, this.#silent, "Skip the publish: write only"),
      el("div", { className: "loghead" }, el("h3", {}, "Published")),
      this.#log,
    );
    this.refresh();
  }

  /** Look again at what there is to choose from. */
  async refresh() {
    const user = this.#user.value;
    const sessions = this.#panes().filter((pane) => pane.user === user);
    fill(this.#session, sessions.map(({ sessionId, name }) => [sessionId, `${name} (${sessionId})`]), "no device of this user");
    try {
      const { notes, folders } = await api.notes(user);
      fill(this.#note, notes.filter(({ deleted }) => !deleted).map(({ id, title }) => [id, title || "Untitled"]), "no notes yet");
      fill(this.#folder, folders.map(({ id, name }) => [id, name]), "no folders yet");
    } catch (error) {
      fail(error);
    }
    for (const button of this.#buttons) button.check();
  }

  #row(title, field, kinds) {
    const buttons = kinds.map(([event, text]) =>
      action(text, () => this.#publish(event, field), {
        title: event,
        data: { event },
        why: () => this.#obstacle(event, field),
      }),
    );
    this.#buttons.push(...buttons);
    return el("div", { className: "row" }, el("span", {}, title), field, el("div", { className: "buttons" }, ...buttons));
  }

  /** Why an event cannot be published, or "". */
  #obstacle(event, field) {
    if (event.endsWith("_created") || field === this.#user) return "";
    return field.value ? "" : `${event}: there is nothing to choose: ${field.selectedOptions[0]?.text ?? "none"}.`;
  }

  async #publish(event, field) {
    const fields = {
      subject: field === this.#user || event.endsWith("_created") ? "" : field.value,
      name: this.#name.value,
      skew: this.#clock.value,
      ...(this.#silent.checked && /^(note|folder)_/.test(event) && { silent: 1 }),
    };
    let line;
    try {
      const { published, heard } = await api.publish(this.#user.value, event, fields);
      const hint = heard === null ? "written, not published" : `${heard} process${heard === 1 ? "" : "es"} heard it`;
      line = details(event, hint, JSON.stringify(published, null, 2));
      say(`${event}: ${hint}`);
    } catch (error) {
      line = details(event, error.message, error.message);
      line.classList.add("failed");
      fail(error);
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
    el("span", { className: "way", "aria-hidden": "true" }, "→"),
    el("code", {}, event),
    el("span", { className: "hint" }, hint),
    el("time", {}, clock()),
  );
  return el("li", { data: { type: event } }, el("details", {}, summary, el("pre", {}, text)));
}
