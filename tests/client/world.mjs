/**
 * A simulated server, network and clock for the client. One seed, one course of events.
 *
 * The server keeps to the contract (spec sections 2 to 6, recovery section 3): a page
 * never shows a row older than an event already sent on that connection. Everything
 * else may fail: connections, publishes, replies, tokens, the app itself.
 */
import { createHash, createHmac } from "node:crypto";

/** Mulberry32. */
export function randomFrom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export class Time {
  now = Date.UTC(2026, 0, 1);
  #queue = [];
  #number = 0;

  at(ms, run) {
    const event = { due: this.now + Math.max(ms, 0), number: (this.#number += 1), run };
    this.#queue.push(event);
    return event;
  }

  cancel(event) {
    if (event) event.run = null;
  }

  get waiting() {
    return this.#queue.filter(({ run }) => run).length;
  }

  /** Run events until the time is `ms` later; promises settle between them. */
  async pass(ms) {
    const end = this.now + ms;
    for (;;) {
      await new Promise(setImmediate);
      this.#queue = this.#queue.filter(({ run }) => run);
      const next = this.#queue.reduce((a, b) => (!a || b.due < a.due || (b.due === a.due && b.number < a.number) ? b : a), null);
      if (!next || next.due > end) break;
      this.#queue.splice(this.#queue.indexOf(next), 1);
      this.now = Math.max(this.now, next.due);
      next.run();
    }
    this.now = end;
    await new Promise(setImmediate);
  }

  /** The machine sleeps: timers that fell due fire late, all at once. */
  jump(ms) {
    this.now += ms;
  }

  setBack(ms) {
    this.now -= ms;
    for (const event of this.#queue) event.due -= ms;
  }
}

/** Web Locks, as far as the client uses them: `ifAvailable` only. */
export class Locks {
  #held = new Map(); // owner by name
  #ended = new Set();

  of(owner) {
    return {
      request: async (name, { ifAvailable }, run) => {
        await null;
        if (this.#ended.has(owner)) return new Promise(() => {});
        if (!ifAvailable) throw new Error("a lock that waits");
        if (this.#held.has(name)) return run(null);
        this.#held.set(name, owner);
        try {
          return await run({ name });
        } finally {
          if (this.#held.get(name) === owner) this.#held.delete(name);
        }
      },
    };
  }

  /** A tab ends: so do its locks. */
  release(owner) {
    this.#ended.add(owner);
    for (const [name, holder] of this.#held) if (holder === owner) this.#held.delete(name);
  }
}

const HANDSHAKE = { request: 160, response: 129 };

/** Bytes of a WebSocket frame (RFC 6455 section 5.2); `mask` is 4 from the client. */
function frameSize(text, mask) {
  const length = Buffer.byteLength(text);
  return length + mask + (length < 126 ? 2 : length < 65_536 ? 4 : 10);
}

/** A connection; each direction delivers in order, with a delay. */
export class Socket {
  readyState = 0;
  frozen = false; // half open: nothing arrives any more, in either direction
  bufferedAmount = 0;
  bytes = 0; // that passed, in both directions
  #lastDue = { up: 0, down: 0 };

  constructor(world, url) {
    this.world = world;
    this.url = url;
    world.sockets.push(this);
    this.#later("up", HANDSHAKE.request, () => {});
    this.#later("down", HANDSHAKE.response, () => {
      if (world.refusing || this.readyState !== 0) return this.drop(1006);
      this.readyState = 1;
      this.onopen?.({});
      if (this.readyState === 1) world.server.connected(this);
    });
  }

  setBack(ms) {
    this.#lastDue.up -= ms;
    this.#lastDue.down -= ms;
  }

  /** Bytes arrive: all of them and `run` is called, or the first connection is cut. */
  #later(way, size, run) {
    const due = Math.max(this.world.time.now + 1 + this.world.random() * this.world.latencyMs, this.#lastDue[way]);
    this.#lastDue[way] = due;
    this.world.time.at(due - this.world.time.now, () => {
      if (this.frozen) return;
      this.bytes += size;
      const left = this === this.world.sockets[0] ? this.world.cutAt - this.bytes : Infinity;
      if (left >= 0) run();
      if (left <= 0) this.drop(1006);
    });
  }

  send(text) {
    if (this.readyState !== 1) return;
    this.#later("up", frameSize(text, 4), () => this.readyState === 1 && this.world.server.received(this, JSON.parse(text)));
  }

  /** From the server to the client. */
  push(message) {
    const text = JSON.stringify(message);
    this.#later("down", frameSize(text, 0), () => this.readyState === 1 && this.onmessage?.({ data: text }));
  }

  close() {
    this.readyState = 3;
    this.world.server.disconnected(this);
  }

  /** The connection ends; the client hears of it. */
  drop(code, reason = "") {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.world.server.disconnected(this);
    this.onclose?.({ code, reason });
  }
}

const digest = (rows) => {
  const xor = Buffer.alloc(16);
  for (const { id, updatedAt } of rows) {
    const hash = createHash("sha256").update(`${id}:${updatedAt}`).digest();
    for (let i = 0; i < 16; i += 1) xor[i] ^= hash[i];
  }
  return { count: rows.length, hash: xor.toString("hex") };
};

/** The daemon and its database. Rows carry `seq`, which stands for xmin. */
export class Server {
  tables = { notes: new Map(), folders: new Map() };
  devices = new Set();
  writes = []; // {by, id, field, old, value}
  seq = 1;
  epoch = 1;
  recovery = true;
  pageRows = 3;
  faults = { lost: 0, unavailable: 0, late: 0 };

  constructor(world) {
    this.world = world;
  }

  get snapshot() {
    return Object.fromEntries(Object.entries(this.tables).map(([kind, rows]) => [kind, [...rows.values()].map(({ row }) => row)]));
  }

  get digest() {
    const { notes, folders } = this.snapshot;
    return { notes: digest(notes), folders: digest(folders) };
  }

  get cursor() {
    return `${this.epoch}:${this.seq}`;
  }

  put(kind, row) {
    this.tables[kind].delete(row.id);
    this.tables[kind].set(row.id, { row, seq: (this.seq += 1) });
  }

  moment(skewMs = 0) {
    return new Date(this.world.time.now + skewMs).toISOString();
  }

  /** A row of the schema, with the given fields. */
  note(id, fields = {}) {
    const now = this.moment();
    return { id, userId: "alice", folderId: null, title: "t", content: "c", type: "note", encryptedTitle: null,
      encryptedContent: null, iv: null, salt: null, starred: false, archived: false, deleted: false, hidden: false,
      hiddenAt: null, tags: [], createdAt: now, updatedAt: now, ...fields };
  }

  connected(socket) {
    socket.push({ type: "connection_established", message: "Please authenticate to continue" });
  }

  disconnected(socket) {
    this.devices.delete(socket);
  }

  received(socket, message) {
    const { world } = this;
    if (message.payload) message = this.verified(socket, message);
    const reply = (fields) => socket.push({ ...fields, ...(message.requestId && { requestId: message.requestId }) });
    const fail = (code, more = {}) => reply({ type: "error", code, message: code, ...more });
    if (!message) return socket.push({ type: "error", code: "SIGNATURE_REJECTED", message: "Message authentication failed" });
    if (message.type === "ping") {
      return reply({ type: "pong", timestamp: world.time.now, ...(this.recovery && this.devices.has(socket) && !this.hiding && { cursor: this.cursor }) });
    }
    if (message.type === "auth") {
      const { user, exp } = world.tokens.read(message.token);
      if (exp <= world.time.now) return reply({ type: "auth_failed", reason: "token-expired", message: "Token expired" });
      if (world.refusal) {
        const { code, retryAfterMs } = world.refusal;
        return reply({ type: "error", code: "UNAVAILABLE", message: "refused", retryAfterMs }), world.time.at(world.latencyMs + 5, () => socket.drop(code, "refused"));
      }
      if (world.tokens.revoked) return reply({ type: "auth_failed", reason: "auth-failed" }), world.time.at(5, () => socket.drop(4401, "auth-failed"));
      this.devices.add(socket);
      socket.user = user;
      socket.secret = createHash("sha256").update(message.token).digest("hex");
      return reply({ type: "auth_success", message: "", userId: user, sessionSecret: socket.secret, connectionId: `c${world.sockets.length}`, ...(this.recovery && { cursor: this.cursor }) });
    }
    if (!this.devices.has(socket)) return fail("AUTH_REQUIRED");
    if (message.type === "sync") return this.recovery ? this.sync(socket, message, reply, fail) : fail("UNKNOWN_TYPE");
    if (message.type === "note_update") return this.update(socket, message, reply, fail);
    return fail("UNKNOWN_TYPE");
  }

  verified(socket, { payload, signature, timestamp, nonce }) {
    const text = JSON.stringify({ payload, timestamp, nonce });
    const right = createHmac("sha256", socket.secret ?? "").update(text).digest("base64");
    const age = Math.abs(timestamp - this.world.time.now);
    this.signed = (this.signed ?? 0) + 1;
    return signature === right && age < 60_000 ? payload : null;
  }

  sync(socket, { cursor, ids }, reply, fail) {
    if (this.world.random() < this.faults.unavailable) return fail("UNAVAILABLE");
    const [epoch, from] = cursor ? cursor.split(":").map(Number) : [this.epoch, 0];
    if (epoch !== this.epoch || Number.isNaN(from)) return fail("CURSOR_EXPIRED");
    // The digest is of the snapshot; the page may leave later, and shows the rows of then.
    const [horizon, seen, all] = [this.seq, this.digest, this.snapshot];
    this.world.time.at(this.world.random() * this.faults.late, () => {
      const changed = ["folders", "notes"].flatMap((kind) => [...this.tables[kind].values()].map((each) => ({ kind, ...each })))
        .filter(({ seq }) => seq > from).sort((a, b) => a.seq - b.seq);
      const page = changed.slice(0, this.pageRows);
      const more = changed.length > page.length;
      const rows = (wanted) => page.filter(({ kind }) => kind === wanted).map(({ row }) => row);
      reply({ type: "sync_page", notes: rows("notes"), folders: rows("folders"), more,
        cursor: `${this.epoch}:${more ? page.at(-1).seq : horizon}`, ...(!more && { digest: seen }),
        ...(!more && ids && { noteIds: all.notes.map(({ id }) => id), folderIds: all.folders.map(({ id }) => id) }) });
    });
  }

  update(socket, { noteId, changes, baseUpdatedAt }, reply, fail) {
    if (this.world.random() < this.faults.unavailable) return fail("UNAVAILABLE", { noteId });
    const found = this.tables.notes.get(noteId);
    if (!found) return fail("NOT_FOUND", { noteId });
    if (changes.title === "refused") return fail("INVALID_FIELD", { noteId });
    if (baseUpdatedAt && baseUpdatedAt !== found.row.updatedAt) return fail("CONFLICT", { noteId, updatedNote: found.row });
    for (const [field, value] of Object.entries(changes)) this.writes.push({ by: socket.user && socket.owner, id: noteId, field, old: found.row[field], value });
    const updatedAt = new Date(Math.max(this.world.time.now, Date.parse(found.row.updatedAt) + 1)).toISOString();
    const row = { ...found.row, ...changes, updatedAt };
    this.put("notes", row);
    reply({ type: "note_update_success", noteId, updatedNote: row, timestamp: this.world.time.now });
    this.publish("notes", noteId, changes, socket);
  }

  /** An event to the other devices; it shows the row as it is when it is sent. */
  publish(kind, id, changes = null, except = null) {
    const one = kind.slice(0, -1);
    for (const device of this.devices) {
      if (device === except || this.world.random() < this.faults.lost) continue;
      this.world.time.at(this.world.random() * this.faults.late, () => {
        const row = this.tables[kind].get(id)?.row;
        const head = { timestamp: this.world.time.now, fromUserId: "server" };
        if (!row) device.push({ type: `${one}_deleted_sync`, [`${one}Id`]: id, ...head });
        else if (!changes) device.push({ type: `${one}_created_sync`, [`${one}Data`]: row, ...head });
        else if (kind === "notes") device.push({ type: "note_sync", noteId: id, changes: { ...changes, updatedAt: row.updatedAt }, updatedNote: row, ...head });
        else device.push({ type: "folder_updated_sync", folderId: id, changes, updatedFolder: row, ...head });
      });
    }
  }

  /** What the audit does: rows that were not shown, and the digest. */
  heal() {
    for (const device of this.devices) device.push({ type: "healed", reason: "audit", cursor: this.cursor, digest: this.digest });
  }

  delete(kind, id) {
    this.tables[kind].delete(id);
    if (kind === "folders") {
      for (const { row } of [...this.tables.notes.values()]) if (row.folderId === id) this.put("notes", { ...row, folderId: null });
    }
    this.publish(kind, id);
  }
}

export class World {
  sockets = [];
  refusing = false;
  refusal = null; // {code, retryAfterMs}: of each sign-in
  latencyMs = 20;
  cutAt = Infinity; // bytes of the first connection, after which it is cut

  constructor(seed) {
    this.random = randomFrom(seed);
    this.time = new Time();
    this.server = new Server(this);
    const { time } = this;
    this.tokens = {
      livesMs: 60_000, user: "alice", revoked: false, made: 0,
      make() {
        this.made += 1;
        return this.user && `x.${btoa(JSON.stringify({ sub: this.user, exp: (time.now + this.livesMs) / 1000 }))}.x`;
      },
      read: (token) => {
        const { sub, exp } = JSON.parse(atob(token.split(".")[1]));
        return { user: sub, exp: exp * 1000 };
      },
    };
  }

  /** The clock is set back; timers and messages on their way do not follow it. */
  setBack(ms) {
    this.time.setBack(ms);
    for (const socket of this.sockets) socket.setBack(ms);
  }

  /** The environment of one client; `dead.now` true ends all that it does. */
  environment(owner, dead = { now: false }) {
    const world = this;
    return {
      now: () => world.time.now,
      random: world.random,
      setTimeout: (run, ms) => world.time.at(ms, () => dead.now || run()),
      clearTimeout: (event) => world.time.cancel(event),
      target: undefined,
      document: undefined,
      locks: undefined,
      WebSocket: class extends Socket {
        constructor(url) {
          super(world, url);
          this.owner = owner;
        }
      },
    };
  }
}
