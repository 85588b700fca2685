/**
 * Clients in a Node process, told what to do by lines of JSON on stdin.
 *
 * `speed` is how much faster than ours the clients' clock runs; `sleep` moves it on.
 */
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const { WebSocket } = createRequire(`${process.env.NODE_PATH.split(":")[0]}/`)("ws");
const { TypeletsClient } = await import(process.env.CLIENT);

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
  heard = { status: [], conflict: [], error: [], refetch: [] };
  kept = new Map();

  constructor({ name, url, tokens, sign, speed = 1, kept }) {
    this.name = name;
    this.tokens = tokens;
    this.clock = new Clock(speed);
    if (kept) this.kept = clients.get(kept).kept;
    const { now, setTimeout, clearTimeout } = this.clock;
    this.client = new TypeletsClient(url, {
      getToken: async () => (this.tokens.length > 1 ? this.tokens.shift() : this.tokens[0]),
      storage: { load: (key) => this.kept.get(key), save: (key, text) => void this.kept.set(key, text) },
      sign,
      environment: { now, setTimeout, clearTimeout, WebSocket },
    });
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
