/**
 * Seeds of faults: `CLIENT=module node faults.mjs FIRST COUNT`.
 *
 * Two devices of one user, one of them with two tabs on one storage, edit, disconnect,
 * sleep, are killed and start again; REST hosts with wrong clocks write; publishes get
 * lost; replies too. Afterwards every tab holds the server's rows, every edit was stored
 * or handed over as a conflict, and no update overwrote a value that its user had not seen.
 */
import assert from "node:assert/strict";
import { Locks, World } from "./world.mjs";

const [first, count] = process.argv.slice(2).map(Number);
if (!process.env.CLIENT || !(count > 0)) {
  console.error("usage: CLIENT=$PWD/typelets_ws/client/typelets-client.js node tests/client/faults.mjs 1 200");
  process.exit(2);
}
const { TypeletsClient } = await import(process.env.CLIENT);
const MINUTE = 60_000;
const FIELDS = ["title", "content", "starred"];

/** What the tabs of one device share. */
class Machine {
  kept = new Map();
  locks = new Locks();
  edits = []; // {id, field, value, kept}: kept once the storage took it
  conflicts = new Set(); // values handed over
  seen = new Map(); // `id field` -> values shown to this user
}

class Device {
  constructor(world, name, machine) {
    this.world = world;
    this.name = name;
    Object.assign(this, machine);
    this.start();
  }

  /** The app starts, with what its storage kept. */
  start() {
    const { world } = this;
    this.dead = { now: false };
    const delay = (run) => (world.random() < 0.5 ? run() : new Promise((done) => world.time.at(world.random() * 400, () => done(run()))));
    const dead = this.dead;
    this.client = new TypeletsClient("ws://server/", {
      getToken: () => (world.random() < world.trouble * 0.2 ? Promise.reject(new Error("no network")) : world.tokens.make()),
      storage: { load: (key) => delay(() => this.kept.get(key)), save: (key, text) => delay(() => void (dead.now || this.kept.set(key, text))) },
      sign: world.random() < 0.3,
      environment: { ...world.environment(this.name, dead), locks: this.locks.of(this.dead) },
    });
    this.client.on("change", ({ notes }) => notes.forEach((id) => this.look(id)));
    this.client.on("conflict", (conflict) => this.decide(conflict));
    this.client.on("error", (error) => assert.ok(error.code || error.message === "no network", error.stack));
    this.client.start();
  }

  look(id) {
    const note = this.client.get(id);
    for (const field of note ? FIELDS : []) this.shown(id, field).add(note[field]);
  }

  shown(id, field) {
    const key = `${id} ${field}`;
    if (!this.seen.has(key)) this.seen.set(key, new Set());
    return this.seen.get(key);
  }

  decide({ noteId, changes, theirs }) {
    for (const [field, value] of Object.entries(changes)) {
      this.conflicts.add(`${noteId} ${field} ${value}`);
      if (theirs) this.shown(noteId, field).add(theirs[field]);
    }
    const keepMine = theirs && this.world.random() < 0.6;
    const { client, dead } = this;
    this.world.time.at(this.world.random() * 20_000, () => dead.now || client.resolve(noteId, keepMine ? changes : null));
  }

  edit(number) {
    const notes = this.client.list();
    if (notes.length === 0) return;
    const { id, ...row } = notes[Math.floor(this.world.random() * notes.length)];
    const field = FIELDS[Math.floor(this.world.random() * FIELDS.length)];
    const value = field === "starred" ? !row.starred : `${this.name} ${number}`;
    this.client.edit(id, { [field]: value });
    const edit = { id, field, value, kept: false };
    this.edits.push(edit);
    const { dead } = this;
    this.client.saved().then(() => (edit.kept = !dead.now));
  }

  kill() {
    this.dead.now = true;
    this.locks.release(this.dead);
    const socket = this.world.sockets.findLast(({ owner }) => owner === this.name);
    if (socket) socket.onmessage = socket.onclose = socket.onopen = null;
    socket?.drop(1006);
  }

  get socket() {
    return this.world.sockets.findLast(({ owner, readyState }) => owner === this.name && readyState === 1);
  }
}

function restWrites(world, number) {
  const { server } = world;
  const pick = (kind) => [...server.tables[kind].values()][Math.floor(world.random() * server.tables[kind].size)]?.row;
  const skewMs = (world.random() - 0.5) * 20_000;
  const chance = world.random();
  const note = pick("notes");
  const folder = pick("folders");
  if (chance < 0.25 || !note) {
    server.put("notes", server.note(`new${number}`, { folderId: folder?.id ?? null }));
    server.publish("notes", `new${number}`);
  } else if (chance < 0.7) {
    const field = world.random() < 0.5 ? "title" : "content";
    const value = `rest ${number}`;
    const updatedAt = new Date(world.time.now + skewMs + number / 1000).toISOString();
    if (updatedAt === note.updatedAt) return;
    server.put("notes", { ...note, [field]: value, updatedAt });
    server.publish("notes", note.id, { [field]: value });
  } else if (chance < 0.8 && server.tables.notes.size > 2) server.delete("notes", note.id);
  else if (chance < 0.9) {
    const id = folder && world.random() < 0.5 ? folder.id : `f${number}`; // none comes back
    server.put("folders", { id, userId: "alice", name: `folder ${number}`, updatedAt: server.moment(skewMs + number) });
    server.publish("folders", id);
  } else if (folder) server.delete("folders", folder.id);
}

function fault(world, device) {
  const chance = world.random();
  const { socket } = device;
  if (chance < 0.3) socket?.drop([1006, 1012, 1013, 1001, 4401, 4429][Math.floor(world.random() * 6)]);
  else if (chance < 0.45 && socket) socket.frozen = true;
  else if (chance < 0.55) {
    device.kill();
    device.start();
  } else if (chance < 0.6) world.time.jump(world.random() * 60 * MINUTE);
  else if (chance < 0.7) world.server.epoch += world.random() < 0.2 ? 1 : 0;
  else if (chance < 0.8) world.refusing = !world.refusing;
  else if (chance < 0.9) world.server.faults.unavailable = world.random() < 0.5 ? 0.5 : 0;
  else if (chance < 0.95) world.server.devices.forEach((each) => each.push({ type: "resync_required", reason: "gap", timestamp: 1 }));
  else device.client.wake();
}

export async function course(seed) {
  const world = new World(seed);
  world.trouble = 1;
  const { server } = world;
  for (const id of ["n1", "n2", "n3", "n4"]) server.put("notes", server.note(id));
  const [laptop, phone] = [new Machine(), new Machine()];
  const devices = [["laptop", laptop], ["laptop tab", laptop], ["phone", phone]].map(([name, machine]) => new Device(world, name, machine));
  Object.assign(server.faults, { lost: world.random() * 0.5, late: world.random() * 200 });
  server.hiding = true; // a cursor in a pong promises that nothing was lost
  await world.time.pass(5_000);
  for (let step = 0; step < 60; step += 1) {
    for (const device of devices) {
      for (let n = 0; n < 3; n += 1) if (world.random() < 0.4) device.edit(step * 10 + n);
      if (world.random() < 0.15) fault(world, device);
    }
    if (world.random() < 0.4) restWrites(world, step);
    if (world.random() < 0.2) server.heal();
    await world.time.pass(world.random() < 0.1 ? world.random() * 3 * MINUTE : world.random() * 1_500);
  }
  world.trouble = 0;
  world.refusing = false;
  Object.assign(server.faults, { lost: 0, unavailable: 0, late: 0 });
  await world.time.pass(15 * MINUTE);
  server.heal();
  await world.time.pass(5 * MINUTE);
  judge(world, devices);
}

function judge({ server }, devices) {
  const rows = (maps) => Object.fromEntries([...maps.values()].map((row) => [row.id, row]));
  for (const device of devices) {
    const { client, name } = device;
    assert.equal(client.status, "in sync", name);
    for (const kind of ["notes", "folders"]) {
      assert.deepEqual(rows(client[kind]), rows(new Map(server.snapshot[kind].map((row) => [row.id, row]))), name);
    }
    const outboxes = [...device.kept].filter(([key]) => key.startsWith("outbox"));
    for (const [key, text] of outboxes) assert.deepEqual(JSON.parse(text).entries, [], `${name} ${key}`);
    const written = server.writes.filter(({ by }) => by.startsWith(name.split(" ")[0]));
    for (const [index, { id, field, value, kept }] of device.edits.entries()) {
      const later = device.edits.slice(index + 1).some((each) => each.id === id && each.field === field);
      const stored = written.some((each) => each.id === id && each.field === field && each.value === value);
      const same = server.tables.notes.get(id)?.row[field] === value;
      const handed = device.conflicts.has(`${id} ${field} ${value}`);
      const flag = field === "starred"; // back to the stored value is nothing to send
      assert.ok(!kept || later || stored || same || handed || flag, `${name} lost ${id} ${field} ${value}`);
    }
    for (const { id, field, old, value } of written) {
      assert.ok(device.shown(id, field).has(old), `${name} overwrote unseen ${id} ${field}: ${old} -> ${value}`);
    }
  }
}

for (let seed = first; seed < first + count; seed += 1) {
  try {
    await course(seed);
  } catch (error) {
    console.error(`seed ${seed}: ${error.stack}`);
    process.exitCode = 1;
  }
}
console.log(`${count} seeds from ${first}`);
