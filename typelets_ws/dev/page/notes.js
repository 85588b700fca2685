/**
 * One device's copy of a user's notes and folders.
 *
 * What the server says lies in `rows`; what was typed here and is not confirmed yet
 * lies over it. At most one update of a note is on its way; what is typed meanwhile
 * becomes one next update, and what was typed offline is sent after coming back.
 */

import { Refused } from "./client.js";

const SAVE_MS = 250; // between two updates of a note: 240 a minute, of 300 allowed
const RETRY_MS = 2_000;
const MOST_HELD = 500;

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

export class Notes {
  folders = new Map();

  #rows = new Map();
  #edits = new Map(); // id -> { unsent, sending, busy }
  #held = null; // messages that came while everything is being fetched
  #again = false;
  #client;
  #fetchAll;
  #changed;

  /** `changed(error?)` is called after every change, `fetchAll()` asks REST. */
  constructor(client, fetchAll, changed) {
    this.#client = client;
    this.#fetchAll = fetchAll;
    this.#changed = changed;
  }

  /** All notes as this device shows them. */
  all() {
    return [...this.#rows.keys()].map((id) => this.get(id));
  }

  get(id) {
    const { sending, unsent } = this.#edits.get(id) ?? {};
    return this.#rows.has(id) && { ...this.#rows.get(id), ...sending, ...unsent };
  }

  isSaved(id) {
    const edit = this.#edits.get(id);
    return !edit?.unsent && !edit?.sending;
  }

  edit(id, changes) {
    const shown = this.get(id);
    if (Object.entries(changes).every(([name, value]) => shown[name] === value)) return;
    const edit = this.#edits.get(id) ?? { unsent: null, sending: null, busy: false };
    edit.unsent = { ...edit.unsent, ...changes };
    this.#edits.set(id, edit);
    this.#changed();
    this.#save(id);
  }

  /** Fetch everything, and then apply what came meanwhile: it may be newer. */
  async refetch() {
    if (this.#held) {
      this.#again = true;
      return;
    }
    this.#held = [];
    try {
      do {
        this.#again = false;
        const { notes, folders } = await this.#fetchAll();
        this.#rows = new Map(notes.map((note) => [note.id, note]));
        this.folders = new Map(folders.map((folder) => [folder.id, folder]));
      } while (this.#again);
    } catch {
      this.#held = null;
      setTimeout(() => this.#client.online && this.refetch(), RETRY_MS * (1 + Math.random()));
      return;
    }
    const held = this.#held;
    this.#held = null;
    held.forEach((message) => this.#apply(message));
    for (const id of this.#edits.keys()) {
      if (this.#rows.has(id)) this.#save(id);
      else this.#edits.delete(id);
    }
    this.#changed();
  }

  /** Take a message of the server; those that are not about notes do nothing. */
  receive(message) {
    if (!this.#held) {
      this.#apply(message);
      this.#changed();
    } else if (this.#held.push(message) > MOST_HELD) {
      this.#held.length = 0;
      this.#again = true;
    }
  }

  #apply(message) {
    switch (message.type) {
      case "note_sync":
      case "note_update_success":
        return this.#put(message.updatedNote);
      case "note_created_sync":
        return this.#put(message.noteData);
      case "note_deleted_sync":
        this.#edits.delete(message.noteId);
        return this.#rows.delete(message.noteId);
      case "folder_created_sync":
        return this.folders.set(message.folderData.id, message.folderData);
      case "folder_updated_sync":
        return this.folders.set(message.folderId, {
          ...this.folders.get(message.folderId),
          ...message.changes,
          ...message.updatedFolder,
        });
      case "folder_deleted_sync":
        return this.folders.delete(message.folderId);
    }
  }

  /** The newest row wins, in whichever order they come. */
  #put(row) {
    const known = this.#rows.get(row.id);
    if (!known || known.updatedAt <= row.updatedAt) this.#rows.set(row.id, row);
  }

  async #save(id) {
    const edit = this.#edits.get(id);
    if (!edit?.unsent || edit.busy || !this.#client.online || this.#held) return;
    edit.busy = true;
    edit.sending = edit.unsent;
    edit.unsent = null;
    let waitMs = SAVE_MS;
    let refusal;
    try {
      await this.#client.ask({ type: "note_update", noteId: id, changes: edit.sending });
    } catch (error) {
      waitMs = error.retryAfterMs ?? RETRY_MS;
      if (mayPass(error)) edit.unsent = { ...edit.sending, ...edit.unsent };
      else refusal = error;
    }
    edit.sending = null;
    this.#changed(refusal);
    await pause(waitMs);
    edit.busy = false;
    if (edit.unsent) this.#save(id);
    else if (this.#edits.get(id) === edit) this.#edits.delete(id);
  }
}

/** Whether the same update may succeed later: perhaps it was not even heard. */
function mayPass(error) {
  if (!(error instanceof Refused)) return true;
  return error.code === "UNAVAILABLE" || error.code === "RATE_LIMITED";
}
