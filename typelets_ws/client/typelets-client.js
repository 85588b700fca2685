/*
 * Client of Typelets WS: keeps one user's notes and folders equal to the database.
 * No dependencies. Browsers, Node 22 (Node 20 with `WebSocket` injected), React Native.
 *
 * Invariants, each checked by tests/client:
 * - Messages are applied in the order received. Timestamps of rows are not compared to
 *   decide which is newer: clocks of REST hosts differ. (`put` is the exception.)
 * - `notes` and `folders` hold rows as the server sent them. Unconfirmed edits are kept
 *   in the outbox; `get` lays them over the row.
 * - The status is `in sync` only after the digest over all rows equalled the server's,
 *   and while the outbox is empty. The cursor moves only at an equal digest, so saved
 *   rows and the saved cursor belong together.
 * - One update per note is on its way at a time, and it carries `baseUpdatedAt`. An edit
 *   leaves the outbox when the server confirmed it, or when the app resolved its conflict.
 * - Each tab saves to an outbox of its own, which it holds by a Web Lock.
 * - SHA-256 is computed here, synchronously: messages leave in the order of the calls,
 *   and React Native and plain http have no WebCrypto.
 */

/** @typedef {{ id: string, updatedAt: string }} Row */
/**
 * A note, as the database holds it.
 * @typedef {Row & {
 *   userId: string, folderId: string | null, title: string, content: string | null,
 *   type: string, encryptedTitle: string | null, encryptedContent: string | null,
 *   iv: string | null, salt: string | null, starred: boolean | null,
 *   archived: boolean | null, deleted: boolean | null, hidden: boolean | null,
 *   hiddenAt: string | null, tags: string[] | null, createdAt: string }} Note
 */
/**
 * @typedef {Row & {
 *   userId: string, name: string, color: string | null, parentId: string | null,
 *   sortOrder: number, isDefault: boolean | null, createdAt: string }} Folder
 */
/**
 * What an edit may change.
 * @typedef {Partial<Pick<Note, "title" | "content" | "encryptedTitle" | "encryptedContent"
 *   | "starred" | "archived" | "deleted" | "hidden" | "folderId">>} NoteChanges
 */
/** @typedef {{ type: string, requestId?: string, [field: string]: any }} Message */
/** @typedef {"notes" | "folders"} Kind */
/** @template Value @typedef {Value | Promise<Value>} Maybe */
/** @typedef {"offline" | "connecting" | "catching up" | "in sync"} Status */
/**
 * @typedef {object} StatusEvent
 * @property {Status} status
 * @property {number} pending notes with edits that the server has not confirmed
 * @property {string} reason why the client is offline: text of the close, `stopped`,
 *   `signed out`, `no token`, `no answer`, `other user`
 * @property {number} [code] close code
 * @property {number} [retryInMs] until the next attempt; absent when there is none
 */
/**
 * @typedef {object} Conflict
 * @property {string} noteId
 * @property {NoteChanges} changes what the user edited here and the server has not stored
 * @property {NoteChanges} base the values of these fields when the user began to edit
 * @property {Note | null} theirs the stored row; null when it is gone
 * @property {TypeletsError} [error] the server's refusal, when there was one
 */
/**
 * Names of events, and what their listeners get.
 * @typedef {object} Events
 * @property {StatusEvent} status for a badge
 * @property {{ notes: string[], folders: string[] }} change ids to show again
 * @property {Conflict} conflict answer with `resolve`
 * @property {{ reason: string }} refetch the server has no `sync`: load all rows over
 *   REST and hand them to `replace`
 * @property {Error} error of storage, of the server, of the digest; for a log
 * @property {Message} message each message received
 * @property {{ message: Message, signed: boolean }} sent each message sent
 */
/**
 * What tests replace. `target` and `document` have `addEventListener`, or are undefined.
 * @typedef {{ now: () => number, random: () => number, WebSocket: any, target: any,
 *   document: any, locks: any, setTimeout: (run: () => void, ms: number) => any,
 *   clearTimeout: (timer: any) => void }} Environment
 */
/**
 * Both functions may be asynchronous. Keys are `rows`, and `outbox` with the number of a
 * tab. Tabs may share a storage where there are Web Locks (https).
 * @typedef {object} StorageAdapter
 * @property {(key: string) => Maybe<string | null | undefined>} load the text last saved
 *   under the key, or null
 * @property {(key: string, text: string) => any} save
 * @property {string} [name] tells apart several storages of one user and origin
 */
/**
 * @typedef {object} Options
 * @property {(how: { skipCache: boolean }) => Maybe<string | null>} getToken a session
 *   token; null when the user is signed out. As Clerk's `session.getToken`.
 * @property {StorageAdapter} [storage] keeps edits and rows while the app is not running
 * @property {boolean} [sign] sign messages (default false)
 * @property {Partial<Environment>} [environment]
 */

const KEEPALIVE_MS = 25_000; // after this silence the client pings
const PONG_MS = 10_000;
const WAKE_PONG_MS = 3_000; // after sleep a dead connection is likely
const CONNECT_MS = 15_000; // from asking for a token to auth_success
const REQUEST_MS = 10_000;
const SYNC_MS = 30_000; // a page is up to a megabyte
const HEALED_MS = 5_000; // spread of the syncs of users who were healed together
const STEADY_MS = 10_000; // a connection this old resets the backoff
const EDIT_MS = 300; // between two updates of a note: 200 a minute, of 300 allowed
const SAVE_ROWS_MS = 2_000;
const RENEW_MS = 10_000; // before the token expires
const MOST_REQUESTS = 100;
const MOST_UPDATES = 8; // on their way at once
const MOST_TABS = 20;
const MESSAGE_BYTES = 1_048_576 - 500; // room for what `#ask` adds
const GIVEN_UP = 4000; // our close code for a connection that does not answer

/** Waits before reconnecting: `least` + random * min(`cap`, `base` * 2^attempt). */
const BACKOFF = { least: 0, base: 500, cap: 30_000 };
const PAUSE = { least: 2_000, base: 4_000, cap: 120_000 };
/** By close code; others, known or not, are a PAUSE. @type {Record<number, typeof PAUSE>} */
const ADVICE = {
  1001: BACKOFF, 1005: BACKOFF, 1006: BACKOFF, 1012: BACKOFF, 4408: BACKOFF,
  4429: { least: 20_000, base: 20_000, cap: 300_000 },
};
/** The server will not take the update; after other codes, known or not, it is sent again. */
const REFUSALS = new Set(["INVALID_MESSAGE", "INVALID_FIELD", "UNKNOWN_TYPE", "NOT_FOUND",
  "ACCESS_DENIED", "MESSAGE_TOO_LARGE", "CONFLICT"]);
const EDITABLE = new Set(["title", "content", "encryptedTitle", "encryptedContent",
  "starred", "archived", "deleted", "hidden", "folderId"]);
/** @type {Kind[]} folders first: a note's folder exists before the note */
const KINDS = ["folders", "notes"];

/**
 * A request that failed. `code` is the server's (`NOT_FOUND`, `RATE_LIMITED`, …) or ours:
 * `TIMEOUT` and `DISCONNECTED` (the outcome is unknown), `STORAGE`, `DIGEST`, `OTHER_USER`.
 */
export class TypeletsError extends Error {
  /** @param {string} code @param {string} message @param {Message} [reply] */
  constructor(code, message, reply) {
    super(message);
    this.name = "TypeletsError";
    this.code = code;
    this.reply = reply;
    /** @type {number | undefined} */
    this.retryAfterMs = reply?.retryAfterMs;
  }
}

/** Keeps a copy of one user's notes. Make a new client for another user. */
export class TypeletsClient {
  /** @type {ReadonlyMap<string, Note>} rows as the server sent them */
  notes;
  /** @type {ReadonlyMap<string, Folder>} */
  folders;
  /** Sent along with REST requests (`exceptConnectionId`). Empty while not connected. */
  connectionId = "";
  /** Known after the first `auth_success`, or from the storage. */
  userId = "";
  /** Whether messages are signed from now on. */
  sign;

  #url; #getToken; #storage;
  /** @type {Environment} */ #env;
  #tables = { notes: new Table(), folders: new Table() };
  /** @type {Map<string, Entry>} */ #outbox = new Map();
  #listeners = new Map(); // sets of functions by event
  #timers = new Map(); // by name
  #requests = new Map(); // functions that settle one, by requestId
  #requestNumber = 0;
  /** @type {any} */ #socket = null;
  /** @type {(() => void)[] | null} */ #stopListening = null; // null: stopped
  /** @type {Promise<void> | null} */ #loading = null;
  /** @type {Promise<void> | null} */ #gathering = null;
  /** @type {number | null} */ #slot = null; // number of the outbox that is held
  #slotText = ""; // last saved there
  #release = () => {};
  #saving = new Map(); // promises by key
  #saveAgain = new Set();
  /** @type {Status} */ #phase = "offline"; // "catching up": connected
  /** @type {Omit<StatusEvent, "status" | "pending">} */ #why = { reason: "stopped" };
  #shown = "";
  #attempt = 0;
  #connectedAt = 0;
  #heardAt = 0;
  #skewMs = 0; // the server's clock minus ours
  #expiresAt = 0; // of the token last sent, by the server's clock; 0: unknown
  #skipCache = false;
  #expiredTokens = 0;
  #secret = "";
  #retryAfterMs = 0; // of the error that refused the sign-in
  /** @type {string | null} */ #cursor = null;
  #verified = false; // the digest was equal, and no gap was reported since
  #syncable = true;
  #syncTries = 0;
  /** @type {Sync | null} */ #sync = null;

  /**
   * @param {string} url for example wss://ws.example.com/
   * @param {Options} options
   */
  constructor(url, { getToken, storage, sign = false, environment = {} }) {
    const { WebSocket, document, navigator } = globalThis;
    this.#env = {
      now: () => Date.now(), random: () => Math.random(), WebSocket, target: globalThis, document,
      locks: navigator?.locks, setTimeout: (run, ms) => setTimeout(run, ms),
      clearTimeout: (timer) => clearTimeout(timer), ...environment,
    };
    this.#url = url;
    this.#getToken = getToken;
    this.#storage = storage;
    this.sign = sign;
    this.notes = this.#tables.notes.rows;
    this.folders = this.#tables.folders.rows;
  }

  /** @returns {Status} */
  get status() {
    if (this.#phase !== "catching up") return this.#phase;
    return this.#verified && this.#outbox.size === 0 ? "in sync" : "catching up";
  }

  /**
   * Listen to an event; returns a function that ends it.
   * @template {keyof Events} Name
   * @param {Name} name
   * @param {(event: Events[Name]) => void} listener
   * @returns {() => void}
   */
  on(name, listener) {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  /** Connect, and stay connected until `stop`. Resolves when the storage was read. */
  async start() {
    if (this.#stopListening) return;
    const { target, document } = this.#env;
    const leave = () => this.#timers.has("rows") && this.#save("rows");
    const wake = () => (document?.hidden ? leave() : this.wake());
    this.#stopListening = [
      listen(target, "pagehide", leave),
      ...["online", "offline", "pageshow"].map((name) => listen(target, name, wake)),
      ...["visibilitychange", "resume"].map((name) => listen(document, name, wake)),
    ];
    this.#attempt = 0;
    this.#become("connecting", { reason: "" });
    await (this.#loading ??= this.#load());
    await this.#gather();
    if (this.#stopListening && !this.#socket && !this.#timers.has("connect")) this.#connect();
  }

  /** Disconnect. Edits stay in the outbox. Resolves when the storage took them. */
  async stop() {
    await this.#end("stopped");
  }

  /** Resolves when the storage took all edits made so far. */
  async saved() {
    await this.#gathering;
    await Promise.all(this.#saving.values());
  }

  /**
   * Check the connection now, or reconnect now. Called by itself when the network has gone
   * or come back, or the page is shown; in React Native call it when AppState becomes `active`.
   */
  wake() {
    if (this.#stopListening) this.#gather();
    if (this.#phase === "catching up") this.#ping(WAKE_PONG_MS);
    else if (this.#timers.has("retry") && ADVICE[this.#why.code ?? 1006] === BACKOFF) this.#connect();
  }

  /** The note with unconfirmed edits laid over it. @param {string} id @returns {Note | undefined} */
  get(id) {
    const row = this.notes.get(id);
    const entry = this.#outbox.get(id);
    return row && { ...row, ...entry?.sent, ...entry?.changes };
  }

  /** All notes, as `get` gives them. @returns {Note[]} */
  list() {
    return [...this.notes.keys()].map((id) => /** @type {Note} */ (this.get(id)));
  }

  /** Whether an edit of the note is not confirmed yet. @param {string} id */
  isPending(id) {
    return this.#outbox.has(id);
  }

  /**
   * Change a note here and on the server, now or when there is a connection.
   * Throws TypeError for a note or a field that cannot be edited.
   * @param {string} id @param {NoteChanges} changes
   */
  edit(id, changes) {
    const row = this.notes.get(id);
    if (!row) throw new TypeError(`there is no note ${id}`);
    const given = Object.entries(changes).filter(([, value]) => value !== undefined);
    const wrong = given.find(([name]) => !EDITABLE.has(name));
    if (wrong) throw new TypeError(`${wrong[0]} cannot be edited`);
    const entry = this.#outbox.get(id) ?? new Entry(row);
    if (!entry.edit(row, given)) return;
    this.#outbox.set(id, entry);
    const { conflict } = entry;
    this.#edited(id);
    if (conflict) this.#conflict(entry, conflict.theirs, conflict.error);
  }

  /**
   * Answer a conflict: what to store over `theirs`, or null to give the edits up. An edit
   * of a note in conflict emits the conflict again, so the last event has all changes.
   * @param {string} noteId @param {NoteChanges | null} changes
   */
  resolve(noteId, changes) {
    const entry = this.#outbox.get(noteId);
    if (!entry?.conflict) return;
    entry.resolve(changes);
    this.#edited(noteId);
  }

  /**
   * Take a row from the answer of your own REST request. A row older than the one held
   * is ignored. @param {Kind} kind @param {Note | Folder} row
   */
  put(kind, row) {
    const known = this[kind].get(row.id);
    if (!known || known.updatedAt < row.updatedAt) this.#apply(kind, [{ ...row }]);
  }

  /** Forget a row that your own REST request deleted. @param {Kind} kind @param {string} id */
  remove(kind, id) {
    this.#remove(kind, [id]);
  }

  /** All rows, loaded over REST after a `refetch` event. @param {{ notes: Note[], folders: Folder[] }} all */
  replace(all) {
    for (const kind of KINDS) {
      const ids = new Set(all[kind].map(({ id }) => id));
      this.#remove(kind, [...this[kind].keys()].filter((id) => !ids.has(id)));
      this.#apply(kind, all[kind]);
    }
    this.#inSync(null);
  }

  /**
   * Send a message and wait for its reply. Rejects with TypeletsError.
   * @param {Message} message @param {{ timeoutMs?: number }} [options]
   * @returns {Promise<any>}
   */
  request(message, { timeoutMs = REQUEST_MS } = {}) {
    return new Promise((resolve, reject) => {
      this.#ask(message, timeoutMs, (error, reply) => (error ? reject(error) : resolve(reply)));
    });
  }

  // Connecting.

  async #connect() {
    this.#cancel("retry");
    this.#after("connect", CONNECT_MS, () => this.#retry(BACKOFF, { reason: "connecting took too long" }));
    const timer = this.#timers.get("connect");
    this.#become("connecting", { reason: "" });
    const token = await this.#token();
    if (this.#timers.get("connect") !== timer) return;
    if (token instanceof Error) return this.#retry(BACKOFF, { reason: "no token" });
    if (!token) return this.#end("signed out");
    let socket;
    try {
      socket = this.#socket = new this.#env.WebSocket(this.#url);
    } catch (error) { // not an address, or ws from a page of https
      this.#emit("error", asError(error));
      return this.#retry(PAUSE, { reason: asError(error).message });
    }
    const mine = (run) => (event) => {
      if (socket === this.#socket) run(event);
      else socket.close(GIVEN_UP); // React Native opens a socket that was closed before
    };
    this.#expiredTokens = 0;
    socket.onopen = mine(() => {
      this.#write({ type: "ping" }); // its pong tells the server's time
      this.#auth(token);
    });
    socket.onmessage = mine(({ data }) => this.#receive(JSON.parse(data)));
    socket.onerror = () => {}; // a close follows
    socket.onclose = mine(({ code, reason }) => this.#closed(code, reason));
  }

  /** A token, null when signed out, or the error of `getToken`. */
  async #token() {
    try {
      const token = await this.#getToken({ skipCache: this.#skipCache });
      // Clerk before its Core 3 returns null while the browser is offline, too.
      if (!token && this.#env.target?.navigator?.onLine === false) throw new Error("no token while offline");
      return token;
    } catch (error) {
      this.#emit("error", asError(error));
      return asError(error);
    }
  }

  #auth(token) {
    this.#expiresAt = expiry(token);
    this.#write({ type: "auth", token }, this.sign && this.#secret !== "");
  }

  /** Authenticate again on the same connection, which stays open if that fails. */
  async #authAgain() {
    const socket = this.#socket;
    this.#skipCache = true;
    const token = await this.#token();
    if (socket !== this.#socket || !socket) return;
    if (token instanceof Error) this.#after("renew", RENEW_MS, () => this.#authAgain());
    else if (token) this.#auth(token);
    else this.#end("signed out");
  }

  #welcome(message) {
    if (this.userId && this.userId !== message.userId) {
      this.#emit("error", new TypeletsError("OTHER_USER", `the storage is of ${this.userId}`));
      return this.#end("other user");
    }
    const first = !this.#secret;
    this.#secret = message.sessionSecret;
    this.#skipCache = false;
    this.#expiredTokens = 0;
    if (this.#expiresAt) {
      const left = this.#expiresAt - (this.#env.now() + this.#skewMs) - RENEW_MS;
      this.#after("renew", Math.min(Math.max(left, 5_000), 2 ** 31 - 1), () => this.#authAgain());
    }
    if (!first) return;
    this.userId = message.userId;
    this.connectionId = message.connectionId;
    this.#connectedAt = this.#env.now();
    this.#cancel("connect");
    this.#after("alive", KEEPALIVE_MS, () => this.#keepAlive());
    this.#syncable = true; // until it answers UNKNOWN_TYPE
    this.#become("catching up", { reason: "" });
    this.#startSync("connected");
    this.#gather();
  }

  #closed(code, reason) {
    if (code === 1000) return this.#end(reason || "closed", code);
    if (code === 4401) this.#skipCache = true;
    const advice = ADVICE[code] ?? PAUSE;
    const least = Math.max(advice.least, this.#retryAfterMs);
    this.#retry(this.#retryAfterMs ? { ...BACKOFF, least } : advice, { code, reason });
  }

  #retry({ least, base, cap }, why) {
    const { now, random } = this.#env;
    if (this.#connectedAt && now() - this.#connectedAt > STEADY_MS) this.#attempt = 0;
    const retryInMs = Math.round(least + random() * Math.min(cap, base * 2 ** this.#attempt++));
    this.#leave(GIVEN_UP);
    this.#after("retry", retryInMs, () => this.#connect());
    this.#become("offline", { ...why, retryInMs });
  }

  /**
   * Disconnect until `start` is called, and let another client have the outbox.
   * @param {string} reason @param {number} [code]
   */
  async #end(reason, code) {
    this.#stopListening?.forEach((stop) => stop());
    this.#stopListening = null;
    this.#leave(1000);
    this.#become("offline", code ? { reason, code } : { reason });
    this.#save("rows");
    await this.saved();
    if (this.#stopListening) return;
    this.#slot = null;
    this.#release();
  }

  /** Forget the connection without waiting for its close: a dead one never closes. */
  #leave(code) {
    this.#phase = "offline";
    for (const name of [...this.#timers.keys()]) if (name !== "rows") this.#cancel(name);
    const socket = this.#socket;
    this.#socket = this.#sync = null;
    this.#secret = this.connectionId = "";
    this.#retryAfterMs = 0;
    this.#connectedAt = 0;
    this.#verified = false;
    socket?.close(code);
    const lost = new TypeletsError("DISCONNECTED", "the connection ended before the reply");
    for (const done of [...this.#requests.values()]) done(lost);
  }

  // Staying connected.

  #keepAlive() {
    this.#gather(); // a tab may have been closed
    const silent = this.#env.now() - this.#heardAt;
    // Below 0 the clock was set back.
    if (silent >= 0 && silent < KEEPALIVE_MS) this.#after("alive", KEEPALIVE_MS - silent, () => this.#keepAlive());
    else this.#ping(silent > 2 * KEEPALIVE_MS ? WAKE_PONG_MS : PONG_MS);
  }

  /** Ping; give the connection up when nothing comes back in time. */
  #ping(patienceMs) {
    if (this.#timers.has("pong")) return;
    const due = this.#env.now() + patienceMs;
    this.#write({ type: "ping" });
    this.#after("alive", KEEPALIVE_MS, () => this.#keepAlive());
    this.#after("pong", patienceMs, () => {
      // Fired late, the tab was frozen: the pong may be waiting behind this timer.
      if (this.#env.now() - due > 1_000) this.#ping(WAKE_PONG_MS);
      else this.#retry(BACKOFF, { reason: "no answer" });
    });
  }

  // Receiving.

  #receive(message) {
    const socket = this.#socket;
    this.#heardAt = this.#env.now();
    this.#cancel("pong");
    this.#emit("message", message);
    if (socket !== this.#socket) return; // a listener stopped the client
    this.#handle(message);
    const done = this.#requests.get(message.requestId);
    if (message.type !== "error") return done?.(null, message);
    const error = new TypeletsError(message.code, message.message, message);
    if (done) done(error);
    else this.#emit("error", error);
  }

  #handle(message) {
    switch (message.type) {
      case "auth_success": return this.#welcome(message);
      case "auth_failed":
        this.#skipCache = true;
        if (message.reason === "token-expired" && ++this.#expiredTokens < 3) this.#authAgain();
        else if (this.#secret) this.#after("renew", 3 * RENEW_MS, () => this.#authAgain());
        return; // before the first success the server closes
      case "pong":
        this.#skewMs = message.timestamp - this.#env.now();
        if (this.#verified && !this.#sync && message.cursor) this.#cursor = message.cursor;
        return;
      case "note_update_success":
      case "note_sync":
        return this.#live("notes", message.noteId, { ...message.changes, ...message.updatedNote });
      case "note_created_sync": return this.#live("notes", message.noteData?.id, message.noteData);
      case "note_deleted_sync": return this.#live("notes", message.noteId, null);
      case "folder_created_sync": return this.#live("folders", message.folderData?.id, message.folderData);
      case "folder_updated_sync":
        return this.#live("folders", message.folderId, { ...message.changes, ...message.updatedFolder });
      case "folder_deleted_sync": return this.#live("folders", message.folderId, null);
      // Also after the timeout of a request: the cursor of a pong counts their rows as sent.
      case "error":
        if (!this.#secret) this.#retryAfterMs = message.retryAfterMs ?? 0;
        return message.updatedNote && this.#live("notes", message.updatedNote.id, message.updatedNote);
      case "sync_page":
        return KINDS.forEach((kind) => this.#apply(kind, message[kind]));
      case "resync_required":
        this.#verified = false;
        return this.#startSync(message.reason);
      case "healed": return this.#healed(message);
    }
  }

  /** A row changed on the server: upsert (fields over the row held) or, with null, delete. */
  #live(kind, id, row) {
    if (typeof id !== "string") return;
    this.#sync?.touched.add(id);
    const whole = row && { ...this[kind].get(id), ...row, id };
    if (!whole) this.#remove(kind, [id]);
    else if (whole.updatedAt) this.#apply(kind, [whole]);
    else this.#startSync("part of a row");
    this.#flush();
  }

  #apply(kind, rows) {
    for (const row of rows) this.#tables[kind].set(row);
    this.#changed(kind, rows.map(({ id }) => id));
  }

  #remove(kind, ids) {
    const gone = ids.filter((id) => this.#tables[kind].delete(id));
    this.#changed(kind, gone);
    if (kind === "notes" || gone.length === 0) return;
    // As the database does: ON DELETE SET NULL, which leaves updatedAt as it was.
    const inside = [...this.notes.values()].filter(({ folderId }) => gone.includes(folderId));
    this.#apply("notes", inside.map((note) => ({ ...note, folderId: null })));
  }

  #changed(kind, ids) {
    if (ids.length === 0) return;
    this.#emit("change", { notes: [], folders: [], [kind]: ids });
    this.#saveRowsSoon();
    this.#tell();
  }

  // Catching up. A sync reads pages until there are no more, then compares digests.

  /** @param {string} reason @param {"changes" | "ids" | "all"} [mode] */
  #startSync(reason, mode = "changes") {
    if (this.#phase !== "catching up") return;
    if (!this.#syncable) return this.#emit("refetch", { reason });
    if (this.#sync) return void (this.#sync.again = true);
    this.#cancel("sync");
    const cursor = mode === "all" ? null : this.#cursor;
    this.#sync = { mode: cursor ? mode : "all", touched: new Set(), seen: new Set(), again: false };
    this.#tell();
    this.#askPage(cursor);
  }

  #askPage(cursor) {
    const sync = /** @type {Sync} */ (this.#sync);
    const message = { type: "sync", ...(cursor && { cursor }), ...(sync.mode === "ids" && { ids: true }) };
    this.#ask(message, SYNC_MS, (error, page) => {
      if (sync !== this.#sync) return;
      if (error) this.#syncFailed(error);
      else this.#page(sync, page);
    });
  }

  #page(sync, page) {
    for (const { id } of [...page.folders, ...page.notes]) sync.seen.add(id);
    if (page.more) return this.#askPage(page.cursor);
    const listed = page.noteIds ? new Set([...page.noteIds, ...page.folderIds]) : sync.mode === "all" && sync.seen;
    for (const kind of listed ? KINDS : []) {
      this.#remove(kind, [...this[kind].keys()].filter((id) => !listed.has(id) && !sync.touched.has(id)));
    }
    this.#sync = null;
    if (this.#matches(page.digest)) {
      this.#inSync(page.cursor);
      if (sync.again) this.#startSync("again");
    } else if (sync.touched.size) {
      // Events arrived between the server's snapshot and its page: compare once more.
      this.#syncLater(() => this.#startSync("changed meanwhile", sync.mode));
    } else if (sync.mode !== "all") {
      this.#startSync("digest", sync.mode === "changes" ? "ids" : "all");
    } else {
      this.#emit("error", new TypeletsError("DIGEST", "all rows were read, and the digest differs"));
      this.#syncLater(() => this.#startSync("digest"));
    }
  }

  #syncFailed(error) {
    this.#sync = null;
    if (error.code === "CURSOR_EXPIRED" && this.#cursor) {
      this.#cursor = null;
      this.#startSync("cursor expired");
    } else if (error.code === "UNKNOWN_TYPE") {
      this.#syncable = false;
      this.#startSync("the server has no sync");
    } else if (error.code !== "DISCONNECTED") {
      this.#emit("error", error);
      if (error.code === "TIMEOUT") this.#ping(PONG_MS);
      this.#syncLater(() => this.#startSync(error.code), error.retryAfterMs);
    }
  }

  /** @param {() => void} run @param {number} [least] ms @param {number} [spread] ms */
  #syncLater(run, least = 0, spread = Math.min(60_000, 500 * 2 ** this.#syncTries++)) {
    this.#after("sync", least + 100 + this.#env.random() * spread, run);
    this.#tell();
  }

  #healed(message) {
    if (this.#sync) return;
    if (!message.digest) this.#syncLater(() => this.#startSync("healed"), 0, HEALED_MS); // one of many
    // A sync that is due reads from our own cursor, which may be older than this heal.
    else if (!this.#timers.has("sync") && this.#matches(message.digest)) this.#inSync(message.cursor);
    else this.#startSync("healed");
  }

  #inSync(cursor) {
    this.#cancel("sync");
    this.#cursor = cursor;
    this.#syncTries = 0;
    if (this.#verified) this.#saveRowsSoon();
    else this.#save("rows");
    this.#verified = true;
    this.#flush();
    this.#tell();
  }

  /** Whether all rows are the server's; without a digest there is nothing to compare. */
  #matches(digest) {
    return !digest || KINDS.every((kind) => this.#tables[kind].matches(digest[kind]));
  }

  // Sending edits.

  /** Send what may be sent now; called after each event that may allow more. */
  #flush() {
    if (this.#phase !== "catching up" || !this.#verified || this.#timers.has("hold all")) return;
    const entries = [...this.#outbox.values()];
    let free = MOST_UPDATES - entries.filter(({ sent }) => sent).length;
    for (const entry of entries) {
      if (entry.sent || entry.conflict || this.#timers.has(`hold ${entry.id}`)) continue;
      if (free > 0 && this.#rebased(entry)) {
        free -= 1;
        this.#update(entry);
      }
    }
  }

  /** Send no edit of this note, or of `all`, for a while. */
  #hold(id, ms) {
    this.#after(`hold ${id}`, ms, () => this.#flush());
  }

  /** Lay the edits over the row as it is now; whether there is something to send. */
  #rebased(entry) {
    const row = this.notes.get(entry.id) ?? null;
    const fits = entry.rebase(row);
    if (!fits) this.#conflict(entry, row);
    else if (entry.isEmpty) {
      this.#outbox.delete(entry.id);
      this.#save("outbox");
      this.#tell();
    }
    return fits && !entry.isEmpty;
  }

  #update(entry) {
    entry.send();
    this.#hold(entry.id, EDIT_MS);
    const message = { type: "note_update", noteId: entry.id, changes: entry.sent, baseUpdatedAt: entry.version };
    this.#save("outbox"); // before sending: the outcome may never be known
    this.#ask(message, REQUEST_MS, (error, reply) => {
      if (error) this.#refused(entry, error);
      else entry.confirmed(reply.updatedNote);
      this.#edited(entry.id);
    });
  }

  #refused(entry, error) {
    entry.unsend(error.code === "TIMEOUT" || error.code === "DISCONNECTED");
    if (error.code === "CONFLICT" && error.reply?.updatedNote) return; // the row is applied
    if (REFUSALS.has(error.code)) {
      this.#conflict(entry, this.notes.get(entry.id) ?? null, error);
      if (error.code === "NOT_FOUND") this.#startSync("not found");
    } else if (error.code !== "DISCONNECTED") {
      this.#emit("error", error);
      const backoff = Math.min(60_000, 1_000 * 2 ** entry.tries++) * (0.5 + this.#env.random() / 2);
      this.#hold(error.code === "RATE_LIMITED" ? "all" : entry.id, (error.retryAfterMs ?? 0) + backoff);
      if (error.code === "TIMEOUT") this.#ping(PONG_MS);
    }
  }

  /** @param {Entry} entry @param {Note | null} theirs @param {TypeletsError | null} [error] */
  #conflict(entry, theirs, error = null) {
    entry.conflict = { theirs, error };
    const { id: noteId, changes, base } = entry;
    this.#emit("conflict", { noteId, changes: { ...changes }, base: { ...base }, theirs, ...(error && { error }) });
    this.#tell();
  }

  /** The edits of a note changed. */
  #edited(id) {
    if (this.#outbox.get(id)?.isEmpty) this.#outbox.delete(id);
    this.#changed("notes", [id]);
    this.#save("outbox");
    this.#flush();
  }

  // Words.

  /** Send a request; `done(error, reply)` is called once, synchronously with the reply. */
  #ask(message, timeoutMs, done) {
    const requestId = `${++this.#requestNumber}`;
    const fail = (code, text) => done(new TypeletsError(code, text));
    if (this.#phase !== "catching up") return fail("DISCONNECTED", "not connected");
    if (this.#requests.size >= MOST_REQUESTS) return fail("RATE_LIMITED", "too many requests are waiting");
    if (utf8(JSON.stringify(message)).length > MESSAGE_BYTES) {
      return fail("MESSAGE_TOO_LARGE", "Message too large. Maximum size is 1MB.");
    }
    const settle = (error, reply) => {
      this.#requests.delete(requestId);
      this.#cancel(`request ${requestId}`);
      done(error, reply);
    };
    this.#requests.set(requestId, settle);
    this.#after(`request ${requestId}`, timeoutMs, () => settle(new TypeletsError("TIMEOUT", "no reply in time")));
    this.#write({ ...message, requestId }, this.sign);
  }

  #write(message, signed = false) {
    if (this.#socket?.readyState !== 1) return;
    this.#socket.send(signed ? this.#signed(message) : JSON.stringify(message));
    this.#emit("sent", { message, signed });
  }

  #signed(payload) {
    const timestamp = this.#env.now() + this.#skewMs;
    const nonce = [1, 2, 3].map(() => this.#env.random().toString(36).slice(2)).join("");
    const text = JSON.stringify({ payload, timestamp, nonce });
    const signature = btoa(String.fromCharCode(...hmac(this.#secret, text)));
    return `{"signature":"${signature}",${text.slice(1)}`;
  }

  // Storage: the keys `rows` and `outbox`. A second save of a key waits for the first.

  async #load() {
    try {
      const read = async (key) => this.#parsed(key, await this.#storage?.load(key));
      const rows = await read("rows");
      this.userId = rows.userId || (await read("outbox")).userId || "";
      await this.#gather(); // before there are rows to edit
      for (const kind of KINDS) this.#apply(kind, rows[kind] ?? []);
      this.#cursor = rows.cursor ?? null;
    } catch (error) {
      this.#storageFailed("load", error);
      this.#storage = undefined; // or the edits it holds would be overwritten
    }
  }

  /** What was saved as this text; nothing of it can be used when a part is missing. */
  #parsed(key, text) {
    try {
      return JSON.parse(text || "{}") ?? {};
    } catch (error) {
      this.#storageFailed(`read ${key}`, error);
      return {};
    }
  }

  /** Hold an outbox, and take over the edits of tabs that were closed. One at a time. */
  #gather() {
    const failed = (error) => this.#storageFailed("load", error);
    return (this.#gathering ??= this.#gatherAll().catch(failed).then(() => void (this.#gathering = null)));
  }

  async #gatherAll() {
    const { locks } = this.#env;
    const storage = this.#storage;
    if (!storage || !this.userId) return;
    const name = `typelets ${storage.name ?? ""} ${this.userId}`;
    for (let number = 0; number < MOST_TABS; number += 1) {
      const holds = this.#slot !== null;
      if (holds && (!locks || number === this.#slot || !(await storage.load(outboxKey(number))))) continue;
      if (!locks) await this.#take(storage, number);
      else await new Promise((next, fail) => {
        const granted = async (lock) => {
          const held = lock && (await this.#take(storage, number));
          next(null);
          if (held) await new Promise((release) => (this.#release = () => release(null)));
        };
        locks.request(`${name} ${number}`, { ifAvailable: true }, granted).catch(fail);
      });
    }
    if (this.#slot === null) throw new Error("too many tabs use it");
  }

  /** Take over the edits of an outbox that no tab holds; whether to hold it from now on. */
  async #take(storage, number) {
    const text = (await storage.load(outboxKey(number))) ?? "";
    const first = this.#slot === null;
    // What this client saved before `stop` is older than what it remembers.
    const saved = first && text === this.#slotText ? {} : this.#parsed(outboxKey(number), text);
    const entries = saved.entries ?? [];
    const left = entries.filter(({ id }) => this.#outbox.has(id)); // one's own are sent first
    if (first && left.length && this.#env.locks) return false;
    const taken = entries.filter((entry) => !left.includes(entry));
    for (const entry of taken) this.#outbox.set(entry.id, Entry.from(entry));
    if (first) this.#slot = number;
    if (first || taken.length) this.#save("outbox");
    if (!first && (taken.length || !saved.entries)) {
      await Promise.all(this.#saving.values());
      await storage.save(outboxKey(number), JSON.stringify({ userId: this.userId, entries: left }));
    }
    this.#changed("notes", taken.map(({ id }) => id));
    this.#flush();
    return first;
  }

  #save(key) {
    if (key === "rows") this.#cancel("rows");
    if (!this.#storage || !this.userId) return;
    if (key === "outbox" && this.#slot === null) return void this.#gather();
    if (this.#saving.has(key)) return void this.#saveAgain.add(key);
    const content = key === "outbox"
      ? { userId: this.userId, entries: [...this.#outbox.values()].map((entry) => entry.saved) }
      : { userId: this.userId, cursor: this.#cursor, notes: [...this.notes.values()], folders: [...this.folders.values()] };
    const text = JSON.stringify(content);
    if (key === "outbox") this.#slotText = text;
    const failed = (error) => this.#storageFailed("save", error);
    try {
      const saved = this.#storage.save(key === "outbox" ? outboxKey(this.#slot) : key, text);
      if (typeof saved?.then !== "function") return;
      this.#saving.set(key, saved.then(() => {}, failed).then(() => {
        this.#saving.delete(key);
        if (this.#saveAgain.delete(key)) this.#save(key);
        return this.#saving.get(key);
      }));
    } catch (error) {
      failed(error);
    }
  }

  #saveRowsSoon() {
    if (this.#storage && !this.#timers.has("rows")) this.#after("rows", SAVE_ROWS_MS, () => this.#save("rows"));
  }

  #storageFailed(what, error) {
    this.#emit("error", new TypeletsError("STORAGE", `cannot ${what}: ${asError(error).message}`));
  }

  // Telling.

  #become(phase, why) {
    this.#phase = phase;
    this.#why = why;
    this.#tell();
  }

  /** Emit the status when it is not the one last emitted. */
  #tell() {
    const event = { status: this.status, pending: this.#outbox.size, ...this.#why };
    const shown = JSON.stringify(event);
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#emit("status", event);
  }

  /**
   * @template {keyof Events} Name
   * @param {Name} name @param {Events[Name]} event
   */
  #emit(name, event) {
    for (const listener of [...(this.#listeners.get(name) ?? [])]) {
      try {
        listener(event);
      } catch (error) {
        // A listener's mistake shows up, and does not disturb the connection.
        this.#env.setTimeout(() => { throw error; }, 0);
      }
    }
  }

  #after(name, ms, run) {
    this.#cancel(name);
    const timer = this.#env.setTimeout(() => {
      this.#timers.delete(name);
      run();
    }, ms);
    this.#timers.set(name, timer);
  }

  #cancel(name) {
    this.#env.clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}

/**
 * @typedef {object} Sync
 * @property {"changes" | "ids" | "all"} mode
 * @property {Set<string>} touched ids of rows changed by live events meanwhile
 * @property {Set<string>} seen ids on the pages so far
 * @property {boolean} again
 */

/** The edits of one note that are not confirmed. Pure: no clock, no I/O. */
class Entry {
  /** @type {any} not sent yet */ changes = {};
  /** @type {any} on its way; null: nothing is */ sent = null;
  /** @type {any} the fields' values when the user began to edit them */ base = {};
  /** @type {any} values by field that were sent with an unknown outcome */ attempted = {};
  /** @type {{ theirs: Note | null, error: TypeletsError | null } | null} */ conflict = null;
  tries = 0;

  constructor({ id, updatedAt }) {
    this.id = id;
    this.version = updatedAt;
  }

  /** What the storage keeps. */
  get saved() {
    const { id, version, base, sent, changes } = this;
    const attempted = sent ? withValues(this.attempted, sent) : this.attempted;
    return { id, version, base, attempted, changes: { ...sent, ...changes } };
  }

  static from({ id, version, base, attempted, changes }) {
    return Object.assign(new Entry({ id, updatedAt: version }), { base, attempted, changes });
  }

  get isEmpty() {
    return !this.sent && Object.keys(this.changes).length === 0;
  }

  /** Take an edit, as pairs of name and value; whether it changes what is shown. */
  edit(row, given) {
    const shown = { ...row, ...this.sent, ...this.changes };
    const changed = given.filter(([name, value]) => shown[name] !== value);
    for (const [name, value] of changed) {
      if (!(name in this.base)) this.base[name] = row[name];
      this.changes[name] = value;
    }
    return changed.length > 0;
  }

  /**
   * Compare with the stored row, field by field; false when there is a conflict. A field
   * that was not stored by others since the user saw it is none, even if the row's other
   * fields were.
   */
  rebase(row) {
    if (!row) return false;
    if (row.updatedAt === this.version) return true;
    const names = Object.keys(this.changes);
    const known = (name) => row[name] === this.base[name] || this.attempted[name]?.includes(row[name]);
    if (names.some((name) => row[name] !== this.changes[name] && !known(name))) return false;
    this.version = row.updatedAt;
    for (const name of names) {
      this.base[name] = row[name];
      if (row[name] === this.changes[name]) this.#forget(name);
    }
    return true;
  }

  send() {
    this.sent = this.changes;
    this.changes = {};
  }

  /** The server stored what was sent. */
  confirmed(row) {
    const { sent } = this;
    this.sent = null;
    this.tries = 0;
    this.version = row.updatedAt;
    for (const name of Object.keys(sent)) {
      if (name in this.changes) this.base[name] = sent[name];
      else this.#forget(name);
      delete this.attempted[name];
    }
  }

  /** What was sent is not stored, or perhaps it is. */
  unsend(uncertain) {
    if (uncertain) this.attempted = withValues(this.attempted, this.sent);
    this.changes = { ...this.sent, ...this.changes };
    this.sent = null;
  }

  /** The app's answer to the conflict. */
  resolve(answer) {
    const changes = { ...answer };
    const base = Object.fromEntries(Object.keys(changes).map((name) => [name, this.conflict?.theirs?.[name]]));
    // Compared field by field with the row of then: it may have changed meanwhile.
    Object.assign(this, { conflict: null, changes, base, attempted: {}, version: "", tries: 0 });
  }

  #forget(name) {
    delete this.changes[name];
    delete this.base[name];
  }
}

/** Per field the last values that were sent. */
function withValues(attempted, sent) {
  const result = { ...attempted };
  for (const [name, value] of Object.entries(sent)) {
    result[name] = [...(result[name] ?? []).filter((other) => other !== value), value].slice(-4);
  }
  return result;
}

/** Rows by id, and their digest, which each change brings up to date. */
class Table {
  /** @type {Map<string, any>} */ rows = new Map();
  #xor = new Int32Array(4);

  set(row) {
    const known = this.rows.get(row.id);
    if (known) this.#toggle(known);
    this.#toggle(row);
    this.rows.set(row.id, Object.freeze(row));
  }

  delete(id) {
    const known = this.rows.get(id);
    if (known) this.#toggle(known);
    return this.rows.delete(id);
  }

  matches(digest) {
    const hash = [...this.#xor].map((word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
    return digest.count === this.rows.size && digest.hash === hash;
  }

  #toggle(row) {
    const hash = new DataView(sha256(utf8(`${row.id}:${row.updatedAt}`)).buffer);
    for (let word = 0; word < 4; word += 1) this.#xor[word] ^= hash.getInt32(4 * word);
  }
}

/** When a JWT expires, in ms since the epoch; 0 when that cannot be read. */
function expiry(/** @type {string} */ token) {
  try {
    const claims = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return 1000 * (Number(JSON.parse(atob(claims)).exp) || 0);
  } catch {
    return 0;
  }
}

function listen(/** @type {any} */ target, /** @type {string} */ name, /** @type {() => void} */ run) {
  target?.addEventListener?.(name, run);
  return () => target?.removeEventListener?.(name, run);
}

/** @returns {Error} */
function asError(/** @type {unknown} */ thrown) {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}

function outboxKey(number) {
  return number ? `outbox ${number}` : "outbox";
}

function utf8(/** @type {string} */ text) {
  return new TextEncoder().encode(text);
}

// SHA-256 (FIPS 180-4) and HMAC (RFC 2104).

const PRIMES = Array.from({ length: 312 }, (_, n) => n).filter((n) => {
  for (let d = 2; d * d <= n; d += 1) if (n % d === 0) return false;
  return n > 1;
});
const fraction = (/** @type {number} */ x) => ((x % 1) * 2 ** 32) | 0;
const ROUND = PRIMES.map((prime) => fraction(Math.cbrt(prime)));
const START = PRIMES.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)));

/** @param {Uint8Array} message @returns {Uint8Array} 32 bytes */
export function sha256(message) {
  const padded = new Uint8Array(((message.length + 72) >> 6) << 6);
  padded.set(message);
  padded[message.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 8, message.length / 2 ** 29);
  view.setUint32(padded.length - 4, message.length << 3);
  const state = Int32Array.from(START);
  const w = new Int32Array(64);
  for (let at = 0; at < padded.length; at += 64) {
    for (let i = 0; i < 16; i += 1) w[i] = view.getInt32(at + 4 * i);
    for (let i = 16; i < 64; i += 1) {
      const x = w[i - 15], y = w[i - 2];
      w[i] = w[i - 16] + w[i - 7]
        + (((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3))
        + (((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10));
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i += 1) {
      const t = h + ROUND[i] + w[i] + ((e & f) ^ (~e & g))
        + (((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7)));
      const u = ((a & b) ^ (a & c) ^ (b & c))
        + (((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10)));
      h = g; g = f; f = e; e = (d + t) | 0;
      d = c; c = b; b = a; a = (t + u) | 0;
    }
    [a, b, c, d, e, f, g, h].forEach((word, i) => { state[i] += word; });
  }
  const result = new DataView(new ArrayBuffer(32));
  state.forEach((word, i) => result.setInt32(4 * i, word));
  return new Uint8Array(result.buffer);
}

/** HMAC-SHA256; the key is a text of at most 64 bytes. @param {string} key @param {string} text */
function hmac(key, text) {
  const block = new Uint8Array(64);
  block.set(utf8(key));
  const hash = (/** @type {number} */ pad, /** @type {Uint8Array} */ tail) => {
    const message = new Uint8Array(64 + tail.length);
    message.set(block.map((byte) => byte ^ pad));
    message.set(tail, 64);
    return sha256(message);
  };
  return hash(0x5c, hash(0x36, utf8(text)));
}
