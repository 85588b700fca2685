/**
 * Clients in a Node process, told what to do by lines of JSON on stdin.
 *
 * `speed` is how much faster than ours the clients' clock runs; `sleep` moves it on.
 * With REACT_NATIVE set the module runs under React Native's constraints: its own clock,
 * an asynchronous storage, and `state` for what the system tells the app.
 */
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const mobile = Boolean(process.env.REACT_NATIVE);
const { WebSocket: Native } = createRequire(`${process.env.NODE_PATH.split(":")[0]}/`)("ws");
const WebSocket = globalThis.WebSocket ?? Native; // Node 22 has one
const { AppState, loadInReactNative } = await import("./react_native.mjs");
const { TypeletsClient } = await (mobile ? loadInReactNative(process.env.CLIENT, Native) : import(process.env.CLIENT));

const { followAppState } = await import(process.env.README_MOBILE);

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const clients = new Map();

class Clock {
  #start = Date.now();
  #slept = 0;

  constructor(speed) {
    this.speed = speed;
  }

  now = () => Math.round(this.#start + (Date.now() - this.#start) * this.speed + this.#slept);
  setTimeout = (run, ms) => setTimeout(run, ms / this.speed);
  clearTimeout = (timer) => clearTimeout(timer);

  sleep(ms) {
    this.#slept += ms;
  }
}

class Driven {
  heard = { status: [], conflict: [], error: [], refetch: [], message: [], sent: [] };
  kept = new Map();
  app = new AppState();

  constructor({ name, url, tokens, sign, speed = 1, kept }) {
    this.name = name;
    this.tokens = tokens;
    this.clock = new Clock(speed);
    if (kept) this.kept = clients.get(kept).kept;
    const { now, setTimeout, clearTimeout } = this.clock;
    const keep = { load: (key) => this.kept.get(key), save: (key, text) => void this.kept.set(key, text) };
    const later = (run) => new Promise((done) => setImmediate(() => done(run())));
    const asyncStorage = { load: (key) => later(() => keep.load(key) ?? null), save: (key, text) => later(() => keep.save(key, text)) };
    this.client = new TypeletsClient(url, {
      getToken: async () => (this.tokens.length > 1 ? this.tokens.shift() : this.tokens[0]),
      storage: mobile ? asyncStorage : keep,
      sign,
      environment: { now, setTimeout, clearTimeout, ...(!mobile && { WebSocket }), locks: undefined },
    });
    followAppState(this.client, this.app);
    for (const [event, heard] of Object.entries(this.heard)) {
      this.client.on(event, (what) => {
        heard.push(what instanceof Error ? { code: what.code, message: what.message } : what);
        if (heard.length > 200) heard.shift();
        if (event === "refetch") say({ refetch: name });
      });
    }
  }
}

const commands = {
  new: (options) => void clients.set(options.name, new Driven(options)),
  start: ({ name }) => clients.get(name).client.start(),
  stop: ({ name }) => clients.get(name).client.stop(),
  state: ({ name, state }) => clients.get(name).app.become(state),
  wake: ({ name }) => clients.get(name).client.wake(),
  sleep: ({ name, ms }) => clients.get(name).clock.sleep(ms),
  tokens: ({ name, tokens }) => void (clients.get(name).tokens = tokens),
  replace: ({ name, all }) => clients.get(name).client.replace(all),
  edit: ({ name, id, changes }) => clients.get(name).client.edit(id, changes),
  resolve: ({ name, id, changes }) => clients.get(name).client.resolve(id, changes),
  status: ({ name }) => clients.get(name).client.status,
  heard: ({ name }) => clients.get(name).heard,
  shown: ({ name, id }) => clients.get(name).client.get(id) ?? null,
  rows: ({ name }) => {
    const { notes, folders } = clients.get(name).client;
    return { notes: [...notes.values()], folders: [...folders.values()] };
  },
  heap: () => {
    globalThis.gc();
    return process.memoryUsage().heapUsed;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { number, command, ...options } = JSON.parse(line);
  try {
    say({ number, result: (await commands[command](options)) ?? null });
  } catch (error) {
    say({ number, error: error.stack });
  }
}
process.exit(0);
