/**
 * A client of Typelets WS, as a web app should have it. No dependencies: copy it.
 *
 * - Each connection begins with a fresh token; a token that expired on the way is
 *   replaced on the same socket.
 * - A lost connection comes back after a random wait of up to twice as long each
 *   time (exponential backoff with full jitter): after a restart, ten thousand
 *   browsers do not all return in the same instant. 1000 is final.
 * - What happened while we were away is gone. So after every connect, and whenever
 *   the server says `resync_required`, `refetch` is called.
 * - Messages leave in the order of `send`, although WebCrypto signs asynchronously.
 * - A dead link looks like a quiet one. After a silence we ask, and if nothing comes
 *   back we hang up.
 */

const BACKOFF = { least: 0, base: 500, cap: 30_000 };
const SENT_AWAY = { least: 2_000, base: 4_000, cap: 120_000 };
const SENT_AWAY_CODES = [4401, 4429];
const FINAL_CODE = 1000;
const SILENT_CODE = 4000; // ours, for a socket that we give up

const STEADY_MS = 10_000; // a connection that held this long was a good one
const CONNECT_MS = 15_000; // from `new WebSocket` to auth_success
const QUIET_MS = 25_000;
const PONG_MS = 10_000;
const MOST_WAITING = 100; // messages that wait for their signature or their reply

/** Thrown by `getToken` when there is nobody to get a token for any more. */
export class SignedOut extends Error {}

/** The connection ended before the reply came: nobody knows whether it was done. */
export class Unanswered extends Error {}

/** The server said no. `code` is for programs, the message for people. */
export class Refused extends Error {
  constructor(reply) {
    super(reply.message);
    this.code = reply.code;
    this.retryAfterMs = reply.retryAfterMs;
  }
}

export class Client {
  /** Sign what is sent from now on. Needs https or localhost, as WebCrypto does. */
  signed = false;

  #url;
  #getToken;
  #on;
  #socket = null;
  #connectionId = null;
  #key = null;
  #skewMs = 0; // their clock minus ours
  #attempt = 0;
  #onlineSince = Infinity;
  #timer = 0;
  #line = Promise.resolve();
  #inLine = 0;
  #replies = new Map();
  #lastRequest = 0;
  #stopping = null;

  /**
   * @param {string} url
   * @param {() => Promise<string>} getToken a fresh session token, or throws SignedOut
   * @param {object} on
   *   state(name, details): offline connecting online waiting signed-out closed
   *   received(message), sent(message, wasSigned): for what is shown
   *   refetch(reason): fetch everything anew over REST
   */
  constructor(url, getToken, on) {
    this.#url = url;
    this.#getToken = getToken;
    this.#on = on;
  }

  get online() {
    return this.#connectionId !== null;
  }

  /** Connect, and stay connected until `stop`. */
  start() {
    this.stop();
    this.#stopping = new AbortController();
    const { signal } = this.#stopping;
    // The network is back, or somebody looks at the page again: do not wait longer.
    addEventListener("online", () => this.#hurry(), { signal });
    document.addEventListener("visibilitychange", () => this.#hurry(), { signal });
    this.#attempt = 0;
    this.#connect();
  }

  /** Disconnect, and stay so. */
  stop() {
    if (this.#stopping === null) return;
    this.#stopping.abort();
    this.#stopping = null;
    this.#leave(FINAL_CODE);
    this.#on.state("offline", {});
  }

  /** Send a message after those before it; false when that is not possible now. */
  send(message) {
    if (!this.online || this.#inLine >= MOST_WAITING) return false;
    const socket = this.#socket;
    const key = this.signed ? this.#key : null;
    this.#inLine += 1;
    this.#line = this.#line
      .then(() => (key ? this.#sign(key, message) : JSON.stringify(message)))
      .then((text) => {
        if (socket !== this.#socket) return;
        socket.send(text);
        this.#on.sent(message, key !== null);
      })
      .catch(reportError)
      .then(() => (this.#inLine -= 1));
    return true;
  }

  /** Send a message and wait for its reply; throws Refused or Unanswered. */
  ask(message) {
    const requestId = `${++this.#lastRequest}`;
    return new Promise((resolve, reject) => {
      if (this.#replies.size >= MOST_WAITING || !this.send({ ...message, requestId })) {
        reject(new Unanswered("not connected"));
      } else {
        this.#replies.set(requestId, { resolve, reject });
      }
    });
  }

  // Connecting.

  async #connect() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    const { signal } = this.#stopping;
    this.#on.state("connecting", {});
    let token;
    try {
      token = await this.#getToken();
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof SignedOut) this.#on.state("signed-out", { reason: error.message });
      else this.#retry(BACKOFF, { reason: "no token" });
      return;
    }
    if (signal.aborted) return;
    const socket = (this.#socket = new WebSocket(this.#url));
    this.#timer = setTimeout(() => this.#giveUp("connecting took too long"), CONNECT_MS);
    socket.onopen = () => {
      this.#say({ type: "ping" }); // its pong tells what time it is there
      this.#say({ type: "auth", token });
    };
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = ({ code, reason }) => this.#closed(code, reason);
  }

  async #receive(message) {
    if (this.online) this.#listen();
    switch (message.type) {
      case "auth_success":
        await this.#welcome(message);
        return;
      case "auth_failed":
        this.#on.received(message);
        if (message.reason === "token-expired") await this.#authAgain();
        return; // otherwise the server closes
      case "pong":
        this.#skewMs = message.timestamp - Date.now();
        break;
    }
    this.#on.received(message);
    this.#settle(message);
    if (message.type === "resync_required") this.#on.refetch(message.reason);
  }

  async #welcome(message) {
    const socket = this.#socket;
    if (globalThis.crypto.subtle) {
      const secret = new TextEncoder().encode(message.sessionSecret);
      const hmac = { name: "HMAC", hash: "SHA-256" };
      this.#key = await crypto.subtle.importKey("raw", secret, hmac, false, ["sign"]);
      if (socket !== this.#socket) return;
    }
    this.#connectionId = message.connectionId;
    this.#onlineSince = Date.now();
    this.#listen();
    this.#on.received(message);
    this.#on.state("online", { connectionId: message.connectionId });
    this.#on.refetch("connected");
  }

  async #authAgain() {
    const socket = this.#socket;
    try {
      const token = await this.#getToken();
      if (socket === this.#socket) this.#say({ type: "auth", token });
    } catch {
      this.#giveUp("no token"); // the next connect finds out why
    }
  }

  // Staying connected.

  /** Something was heard just now: start the silence anew. */
  #listen() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(), QUIET_MS);
  }

  #ask() {
    clearTimeout(this.#timer);
    this.#say({ type: "ping" });
    this.#timer = setTimeout(() => this.#giveUp("no answer"), PONG_MS);
  }

  #hurry() {
    if (document.hidden) return;
    if (this.online) this.#ask();
    else if (this.#socket === null && this.#timer) this.#connect();
  }

  // Coming back.

  #closed(code, reason) {
    this.#leave();
    if (code === FINAL_CODE) {
      this.#stopping.abort();
      this.#on.state("closed", { code, reason });
      return;
    }
    const sentAway = SENT_AWAY_CODES.includes(code);
    this.#retry(sentAway ? SENT_AWAY : BACKOFF, { code, reason });
  }

  #giveUp(reason) {
    // A dead link does not answer our close either, so nobody waits for that.
    this.#leave(SILENT_CODE);
    this.#retry(BACKOFF, { reason });
  }

  #retry({ least, base, cap }, details) {
    if (Date.now() - this.#onlineSince > STEADY_MS) this.#attempt = 0;
    this.#onlineSince = Infinity;
    const most = Math.min(cap, base * 2 ** this.#attempt++);
    const waitMs = least + Math.random() * most;
    this.#timer = setTimeout(() => this.#connect(), waitMs);
    this.#on.state("waiting", { waitMs, ...details });
  }

  /** Be connected no more; what was asked stays without an answer. */
  #leave(code) {
    clearTimeout(this.#timer);
    this.#timer = 0;
    const socket = this.#socket;
    this.#socket = this.#connectionId = this.#key = null;
    if (socket !== null) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      if (code) socket.close(code);
    }
    for (const { reject } of this.#replies.values()) reject(new Unanswered("connection lost"));
    this.#replies.clear();
  }

  // Words.

  /** Send at once and unsigned: what may be said before auth, and pings. */
  #say(message) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    this.#socket.send(JSON.stringify(message));
    this.#on.sent(message, false);
  }

  async #sign(key, payload) {
    const timestamp = Date.now() + this.#skewMs;
    const nonce = crypto.randomUUID();
    const text = JSON.stringify({ payload, timestamp, nonce });
    const mac = await crypto.subtle.sign("HMAC", key, new TextEncoder().encode(text));
    const signature = btoa(String.fromCharCode(...new Uint8Array(mac)));
    return JSON.stringify({ payload, signature, timestamp, nonce });
  }

  #settle(message) {
    const asked = this.#replies.get(message.requestId);
    if (!asked) return;
    this.#replies.delete(message.requestId);
    if (message.type === "error") asked.reject(new Refused(message));
    else asked.resolve(message);
  }
}
