import assert from "node:assert/strict";
import { createHash, createHmac, randomBytes } from "node:crypto";
import test from "node:test";
import { Locks, World } from "./world.mjs";

const { sha256, TypeletsClient } = await import(process.env.CLIENT);
const MINUTE = 60_000;

/** A world with three notes, and a client in it. */
function scene(options = {}, seed = 1) {
  const world = new World(seed);
  for (const id of ["n1", "n2", "n3"]) world.server.put("notes", world.server.note(id));
  world.server.put("folders", { id: "f1", userId: "alice", name: "Home", updatedAt: world.server.moment() });
  return { world, ...device(world, options) };
}

function device(world, { environment, ...options } = {}) {
  const dead = { now: false };
  const seen = { status: [], change: [], conflict: [], refetch: [], error: [], message: [], sent: [] };
  const client = new TypeletsClient("ws://server/", {
    getToken: () => world.tokens.make(),
    environment: { ...world.environment("me", dead), ...environment },
    ...options,
  });
  for (const name of Object.keys(seen)) client.on(name, (event) => seen[name].push(event));
  return { client, seen, dead };
}

async function inSync(world, client, ms = 5_000) {
  await world.time.pass(ms);
  assert.equal(client.status, "in sync");
  equal(world, client);
}

function equal(world, client) {
  for (const kind of ["notes", "folders"]) {
    const wanted = Object.fromEntries(world.server.snapshot[kind].map((row) => [row.id, row]));
    assert.deepEqual(Object.fromEntries(client[kind]), wanted);
  }
}

const storage = (kept = new Map()) => ({ kept, load: (key) => kept.get(key) ?? null, save: (key, text) => void kept.set(key, text) });

test("sha-256 and its hmac are those of node", async () => {
  for (let length = 0; length < 200; length += 1) {
    const bytes = new Uint8Array(randomBytes(length));
    assert.equal(Buffer.from(sha256(bytes)).toString("hex"), createHash("sha256").update(bytes).digest("hex"));
  }
});

test("connects, authenticates, and reads all rows page by page", async () => {
  const { world, client, seen } = scene();
  await client.start();
  await inSync(world, client);
  assert.deepEqual(seen.status.map(({ status }) => status), ["connecting", "catching up", "in sync"]);
  assert.equal(client.userId, "alice");
  assert.ok(client.connectionId);
  assert.deepEqual(seen.error, []);
});

test("live events are applied in the order received", async () => {
  const { world, client } = scene();
  await client.start();
  await inSync(world, client);
  const { server } = world;
  server.put("notes", server.note("n4", { folderId: "f1" }));
  server.publish("notes", "n4");
  // A REST host whose clock is behind: the newest write has the older time.
  server.put("notes", server.note("n1", { title: "newest", updatedAt: server.moment(-MINUTE) }));
  server.publish("notes", "n1", { title: "newest" });
  server.delete("notes", "n2");
  await inSync(world, client, 1_000);
  server.delete("folders", "f1");
  await inSync(world, client, 1_000);
  assert.equal(client.get("n4").folderId, null);
});

test("an announcement with a part of a row is not taken for the row", async () => {
  const { world, client } = scene();
  await client.start();
  await inSync(world, client);
  world.server.put("notes", world.server.note("n9"));
  world.sockets[0].push({ type: "note_created_sync", noteData: { id: "n9", title: "t" }, timestamp: 1, fromUserId: "alice" });
  await inSync(world, client, 1_000);
});

test("a lost event and a lost deletion are found by the digest", async () => {
  const { world, client, seen } = scene();
  await client.start();
  await inSync(world, client);
  world.server.faults.lost = 1;
  world.server.put("notes", world.server.note("n1", { title: "unheard", updatedAt: world.server.moment(5) }));
  world.server.delete("notes", "n2");
  world.server.publish("notes", "n1", {});
  await world.time.pass(1_000);
  assert.equal(client.notes.size, 3);
  world.server.heal();
  await inSync(world, client, 2_000);
  assert.ok(seen.sent.some(({ message }) => message.ids));
});

test("a heal of many users has no digest: the client syncs a little later", async () => {
  const { world, client } = scene();
  await client.start();
  await inSync(world, client);
  world.server.tables.notes.delete("n2");
  world.sockets[0].push({ type: "healed", reason: "gap", cursor: world.server.cursor });
  await inSync(world, client, 8_000);
});

test("a heal does not stand for a sync that is still due", async () => {
  const { world, client } = scene();
  await client.start();
  await inSync(world, client);
  world.refusing = true;
  world.sockets[0].drop(1006);
  const { server } = world;
  // By hand: the digest does not show it, and it is older than what the server heals.
  server.put("notes", { ...server.tables.notes.get("n1").row, title: "while away" });
  await world.time.pass(MINUTE);
  server.faults.unavailable = 1;
  world.refusing = false;
  while (client.status !== "catching up") await world.time.pass(1_000);
  await world.time.pass(200);
  server.heal();
  await world.time.pass(100);
  server.faults.unavailable = 0;
  await inSync(world, client, MINUTE);
});

test("a row that differs in a hidden way is found by reading everything", async () => {
  const { world, client } = scene();
  await client.start();
  await inSync(world, client);
  // The same id below the cursor, as after a restore: neither cursor nor ids show it.
  const { row } = world.server.tables.notes.get("n1");
  world.server.tables.notes.set("n1", { row: { ...row, title: "restored", updatedAt: world.server.moment(7) }, seq: 0.5 });
  world.server.heal();
  await inSync(world, client, 5_000);
  assert.equal(client.get("n1").title, "restored");
});

test("a cursor of another database is given up", async () => {
  const { world, client } = scene();
  await client.start();
  await inSync(world, client);
  world.server.epoch += 1;
  world.server.tables.notes.delete("n3");
  world.sockets[0].drop(1012, "restarting");
  await inSync(world, client, 10_000);
});

test("after a short absence only changes are read", async () => {
  const { world, client, seen } = scene();
  await client.start();
  await inSync(world, client);
  seen.message.length = 0;
  world.refusing = true;
  world.sockets[0].drop(1006);
  world.server.put("notes", world.server.note("n2", { title: "while away", updatedAt: world.server.moment(3) }));
  await world.time.pass(MINUTE);
  assert.equal(client.status, "offline");
  world.refusing = false;
  await inSync(world, client, MINUTE);
  const pages = seen.message.filter(({ type }) => type === "sync_page");
  assert.deepEqual(pages.flatMap(({ notes }) => notes.map(({ id }) => id)), ["n2"]);
});

test("a page that comes after the timeout is applied", async () => {
  const { world, client, seen } = scene();
  await client.start();
  await inSync(world, client);
  const { server } = world;
  // As a trigger may: neither an event nor the digest shows it, only the page.
  server.put("notes", { ...server.tables.notes.get("n1").row, title: "on the page only" });
  const { sync } = server;
  server.sync = (...asked) => {
    server.sync = sync;
    world.time.at(31_000, () => server.sync(...asked));
  };
  const none = { count: 0, hash: "0".repeat(32) };
  world.sockets[0].push({ type: "healed", reason: "audit", cursor: server.cursor, digest: { notes: none, folders: none } });
  await inSync(world, client, MINUTE);
  assert.deepEqual(seen.error.map(({ code }) => code), ["TIMEOUT"]);
});

test("a conflict that comes after the timeout shows its row", async () => {
  const { world, client, seen } = scene();
  await client.start();
  await inSync(world, client);
  const { server } = world;
  const { row } = server.tables.notes.get("n1");
  server.put("notes", { ...row, content: "theirs", updatedAt: server.moment(5) });
  const { update } = server;
  server.update = (...asked) => {
    server.update = () => {}; // and no reply to what is sent again
    world.time.at(11_000, () => update.apply(server, asked));
  };
  client.edit("n1", { content: "mine" });
  await world.time.pass(11_500);
  assert.equal(client.notes.get("n1").content, "theirs");
  await world.time.pass(12_000);
  assert.equal(seen.conflict[0]?.theirs.content, "theirs");
});

test("without sync in the server the app refetches", async () => {
  const { world, client, seen } = scene();
  world.server.recovery = false;
  client.on("refetch", () => client.replace(world.server.snapshot));
  await client.start();
  await inSync(world, client);
  world.sockets[0].push({ type: "resync_required", reason: "gap", timestamp: 1 });
  world.server.put("notes", world.server.note("n5"));
  client.edit("n1", { title: "mine" });
  await inSync(world, client);
  assert.equal(seen.refetch.length, 2);
  assert.equal(client.get("n1").title, "mine");
});

test("edits show at once, are merged, and carry the base", async () => {
  const { world, client, seen } = scene();
  await client.start();
  await inSync(world, client);
  for (const title of ["a", "ab", "abc", "abcd"]) {
    client.edit("n1", { title });
    assert.equal(client.get("n1").title, title);
    assert.notEqual(client.status, "in sync");
  }
  assert.ok(client.isPending("n1"));
  await inSync(world, client, 2_000);
  const updates = seen.sent.filter(({ message }) => message.type === "note_update");
  assert.deepEqual(updates.map(({ message }) => message.changes.title), ["a", "abcd"]);
  assert.ok(updates.every(({ message }) => message.baseUpdatedAt));
  assert.equal(world.server.tables.notes.get("n1").row.title, "abcd");
  assert.ok(!client.isPending("n1"));
  client.edit("n1", { title: "abcd" });
  assert.ok(!client.isPending("n1"), "nothing changed");
});

test("what cannot be edited is refused at once", async () => {
  const { world, client } = scene();
  await client.start();
  await inSync(world, client);
  assert.throws(() => client.edit("nowhere", { title: "x" }), TypeError);
  assert.throws(() => client.edit("n1", { tags: ["x"] }), TypeError);
});

test("a day offline: other fields are merged, the same field is a conflict", async () => {
  const { world, client, seen } = scene();
  await client.start();
  await inSync(world, client);
  world.refusing = true;
  world.sockets[0].drop(1006);
  client.edit("n1", { title: "mine", starred: true });
  client.edit("n2", { content: "mine" });
  client.edit("n3", { title: "mine" });
  await world.time.pass(24 * 60 * MINUTE);
  const { server } = world;
  server.put("notes", { ...server.tables.notes.get("n1").row, content: "theirs", updatedAt: server.moment() });
  server.put("notes", { ...server.tables.notes.get("n2").row, content: "theirs", updatedAt: server.moment() });
  server.tables.notes.delete("n3");
  world.refusing = false;
  await world.time.pass(2 * MINUTE);
  assert.deepEqual(seen.conflict.map(({ noteId, changes, base, theirs }) => [noteId, changes, base, theirs?.content]), [
    ["n2", { content: "mine" }, { content: "c" }, "theirs"],
    ["n3", { title: "mine" }, { title: "t" }, undefined],
  ]);
  const merged = server.tables.notes.get("n1").row;
  assert.deepEqual([merged.title, merged.starred, merged.content], ["mine", true, "theirs"]);
  client.edit("n2", { content: "mine, longer" }); // the user goes on: nothing is sent yet
  await world.time.pass(MINUTE);
  assert.equal(server.tables.notes.get("n2").row.content, "theirs");
  assert.deepEqual(seen.conflict.at(-1).changes, { content: "mine, longer" });
  client.resolve("n2", { content: "both" });
  client.resolve("n3", null);
  await inSync(world, client);
  assert.equal(server.tables.notes.get("n2").row.content, "both");
});

test("a conflict answered too late is asked again", async () => {
  const { world, client, seen } = scene();
  await client.start();
  await inSync(world, client);
  const { server } = world;
  server.faults.lost = 1;
  const theirs = (content) => server.put("notes", { ...server.tables.notes.get("n1").row, content, updatedAt: server.moment() });
  await world.time.pass(10);
  theirs("one");
  client.edit("n1", { content: "mine" });
  await world.time.pass(1_000);
  assert.equal(seen.conflict[0].theirs.content, "one");
  theirs("two");
  client.resolve("n1", { content: "mine over one" });
  await world.time.pass(1_000);
  assert.equal(seen.conflict[1].theirs.content, "two");
  assert.equal(server.tables.notes.get("n1").row.content, "two");
});

test("an update whose reply was lost is no conflict with itself", async () => {
  const { world, client, seen } = scene();
  await client.start();
  await inSync(world, client);
  const { server } = world;
  const reply = server.put.bind(server);
  server.put = (...row) => { reply(...row); world.sockets.at(-1).drop(1006); };
  client.edit("n1", { title: "A" });
  await world.time.pass(30);
  server.put = reply;
  client.edit("n1", { title: "AB" }); // typed before the reconnect
  await inSync(world, client, MINUTE);
  assert.deepEqual(seen.conflict, []);
  assert.equal(server.tables.notes.get("n1").row.title, "AB");
});

test("an edit the server refuses is handed to the app", async () => {
  const { world, client, seen } = scene();
  await client.start();
  await inSync(world, client);
  client.edit("n1", { title: "refused" });
  client.edit("n2", { content: "x".repeat(1_100_000) });
  await world.time.pass(5_000);
  assert.deepEqual(seen.conflict.map(({ error }) => error.code).sort(), ["INVALID_FIELD", "MESSAGE_TOO_LARGE"]);
  client.resolve("n1", null);
  client.resolve("n2", { content: "shorter" });
  await inSync(world, client);
});

test("a code of a later version is waited for, as INTERNAL is", async () => {
  const { world, client, seen } = scene();
  await client.start();
  await inSync(world, client);
  const { server } = world;
  const update = server.update;
  server.update = (socket, message, reply, fail) => fail("NEWER");
  client.edit("n1", { title: "kept" });
  await world.time.pass(1_000);
  server.update = update;
  await inSync(world, client, MINUTE);
  assert.deepEqual([seen.conflict, [...new Set(seen.error.map(({ code }) => code))]], [[], ["NEWER"]]);
  assert.equal(server.tables.notes.get("n1").row.title, "kept");
});

test("RATE_LIMITED and UNAVAILABLE are waited for", async () => {
  const { world, client, seen } = scene();
  await client.start();
  await inSync(world, client);
  world.server.faults.unavailable = 1;
  client.edit("n1", { title: "later" });
  await world.time.pass(5 * MINUTE);
  assert.equal(client.status, "catching up");
  assert.ok(seen.error.length > 2 && seen.error.length < 15);
  world.server.faults.unavailable = 0;
  await inSync(world, client, 2 * MINUTE);
});

/** As the daemon: 300 messages a minute; refusals do not count, 600 of them close. */
function limitRate({ server, time }) {
  const received = server.received.bind(server);
  const counts = new Map();
  server.received = (socket, message) => {
    const recent = (list) => list.filter((at) => at > time.now - MINUTE);
    const { taken, refused } = counts.get(socket) ?? { taken: [], refused: [] };
    const count = { taken: recent(taken), refused: recent(refused) };
    counts.set(socket, count);
    if (count.taken.length < 300) {
      count.taken.push(time.now);
      return received(socket, message);
    }
    count.refused.push(time.now);
    if (count.refused.length > 600) return socket.drop(4429);
    const retryAfterMs = count.taken[0] + MINUTE - time.now;
    socket.push({ type: "error", code: "RATE_LIMITED", message: "slow down", retryAfterMs, requestId: message.requestId });
  };
}

test("a thousand notes edited offline are stored within the rate limit", async () => {
  const { world, client, seen } = scene();
  const { server } = world;
  server.pageRows = 500;
  for (let n = 0; n < 1_000; n += 1) server.put("notes", server.note(`m${n}`));
  limitRate(world);
  await client.start();
  await inSync(world, client);
  world.refusing = true;
  world.sockets[0].drop(1006);
  for (const { id } of client.list()) client.edit(id, { archived: true });
  world.refusing = false;
  await world.time.pass(8 * MINUTE);
  await inSync(world, client);
  assert.equal(world.sockets.filter(({ readyState }) => readyState === 1).length, 1);
  assert.ok(!seen.status.some(({ code }) => code === 4429));
  assert.deepEqual(seen.conflict, []);
});

test("fast typing stays within the rate limit, also when each edit is confirmed at once", async () => {
  const { world, client, seen } = scene();
  world.latencyMs = 0;
  limitRate(world);
  await client.start();
  await inSync(world, client);
  for (let n = 0; n < 3_000; n += 1) {
    client.edit("n1", { title: `${n}` });
    await world.time.pass(100);
  }
  await inSync(world, client);
  assert.deepEqual(seen.error, []);
});

test("edits and rows survive the app, and are sent by the next one", async () => {
  const kept = storage();
  const { world, client, dead } = scene({ storage: kept });
  await client.start();
  await inSync(world, client);
  world.refusing = true;
  world.sockets[0].drop(1006);
  client.edit("n1", { title: "typed offline" });
  dead.now = true; // the app is killed
  const next = device(world, { storage: kept });
  await next.client.start();
  await world.time.pass(MINUTE);
  assert.equal(next.client.get("n1").title, "typed offline");
  assert.equal(next.client.get("n2").title, "t");
  world.refusing = false;
  await inSync(world, next.client, MINUTE);
  assert.equal(world.server.tables.notes.get("n1").row.title, "typed offline");
  assert.deepEqual(JSON.parse(kept.kept.get("outbox")).entries, []);
});

test("rows are kept as soon as they are in sync, and when the page is left", async () => {
  const kept = storage();
  const handlers = {};
  const target = { addEventListener: (name, run) => (handlers[name] = run), removeEventListener() {} };
  const { world, client } = scene({ storage: kept, environment: { target } });
  await client.start();
  for (let n = 0; client.status !== "in sync" && n < 500; n += 1) await world.time.pass(10);
  assert.equal(JSON.parse(kept.kept.get("rows")).notes.length, 3);
  world.server.delete("notes", "n2");
  await world.time.pass(100);
  assert.equal(JSON.parse(kept.kept.get("rows")).notes.length, 3);
  handlers.pagehide();
  assert.equal(JSON.parse(kept.kept.get("rows")).notes.length, 2);
});

test("a storage of another user is not touched", async () => {
  const kept = storage();
  const first = scene({ storage: kept });
  await first.client.start();
  await inSync(first.world, first.client);
  await first.client.stop();
  const before = new Map(kept.kept);
  const second = scene({ storage: kept });
  second.world.tokens.user = "bob";
  await second.client.start();
  await second.world.time.pass(MINUTE);
  assert.equal(second.client.status, "offline");
  assert.equal(second.seen.error[0].code, "OTHER_USER");
  assert.deepEqual(kept.kept, before);
});

test("a storage that fails is told, and never overwritten", async () => {
  const saved = [];
  const broken = { load: () => { throw new Error("disk"); }, save: (key) => saved.push(key) };
  const { world, client, seen } = scene({ storage: broken });
  await client.start();
  await inSync(world, client);
  client.edit("n1", { title: "x" });
  await inSync(world, client);
  assert.equal(seen.error[0].code, "STORAGE");
  assert.deepEqual(saved, []);
  const full = scene({ storage: { load: () => null, save: async () => { throw new Error("quota"); } } });
  await full.client.start();
  await inSync(full.world, full.client);
  await full.client.stop();
  assert.match(full.seen.error[0].message, /quota/);
});

test("what was saved in part is told, and saved again", async () => {
  const kept = storage();
  const before = scene({ storage: kept });
  await before.client.start();
  await inSync(before.world, before.client);
  before.world.refusing = true;
  before.world.sockets[0].drop(1006);
  before.client.edit("n1", { title: "typed offline" });
  await before.client.stop();
  for (const [key, wanted] of [["rows", "typed offline"], ["outbox", "t"]]) {
    const torn = storage(new Map(kept.kept));
    torn.kept.set(key, torn.kept.get(key).slice(0, -20));
    const { world, client, seen } = scene({ storage: torn });
    await client.start();
    await inSync(world, client);
    assert.equal(world.server.tables.notes.get("n1").row.title, wanted);
    assert.match(seen.error[0].message, new RegExp(`read ${key}`));
    client.edit("n2", { title: "and later" });
    await client.saved();
    await world.time.pass(5_000);
    assert.equal(JSON.parse(torn.kept.get(key)).userId, "alice");
    assert.equal(seen.error.length, 1);
  }
});

/** Tabs of one browser: a storage and locks for all of them. `open()` opens one. */
async function tabs(count) {
  const { world } = scene();
  const kept = storage();
  const locks = new Locks();
  const open = async () => {
    const owner = {};
    const tab = device(world, { storage: kept, environment: { locks: locks.of(owner) } });
    tab.close = () => {
      tab.dead.now = true;
      locks.release(owner);
    };
    await tab.client.start();
    await world.time.pass(5_000);
    return tab;
  };
  const opened = [];
  for (let n = 0; n < count; n += 1) opened.push(await open());
  const offline = async () => {
    world.refusing = true;
    for (const socket of world.sockets) socket.drop(1006);
    await world.time.pass(100);
  };
  return { world, kept, open, opened, offline };
}

test("tabs that share a storage keep each other's edits", async () => {
  const { world, open, opened: [one, two, three], offline } = await tabs(3);
  await offline();
  one.client.edit("n1", { title: "one" });
  two.client.edit("n2", { title: "two" });
  three.client.edit("n3", { title: "three" });
  three.client.edit("n1", { starred: true, title: "third" });
  for (const tab of [one, two, three]) tab.close();
  world.refusing = false;
  const next = await open();
  await world.time.pass(MINUTE);
  const stored = (id) => world.server.tables.notes.get(id).row.title;
  assert.deepEqual([stored("n2"), stored("n3")], ["two", "three"]);
  next.client.wake(); // the first edit of n1 is confirmed: the second can be taken over
  await world.time.pass(MINUTE);
  assert.deepEqual([stored("n1"), next.seen.conflict.map(({ changes }) => changes)], ["one", [{ starred: true, title: "third" }]]);
  next.client.resolve("n1", { title: "both" });
  await inSync(world, next.client);
  next.close();
  const last = await open();
  await inSync(world, last.client);
  assert.deepEqual([stored("n1"), last.seen.conflict], ["both", []]);
});

test("the edits of a closed tab are taken over by one that goes on", async () => {
  const { world, kept, opened: [one, two], offline } = await tabs(2);
  await offline();
  two.client.edit("n1", { title: "typed, then closed" });
  one.client.edit("n2", { title: "goes on" });
  assert.equal(one.client.get("n1").title, "t");
  two.close();
  one.client.wake();
  await world.time.pass(100);
  assert.equal(one.client.get("n1").title, "typed, then closed");
  world.refusing = false;
  await inSync(world, one.client, MINUTE);
  assert.equal(world.server.tables.notes.get("n1").row.title, "typed, then closed");
  for (const [key, text] of kept.kept) if (key !== "rows") assert.deepEqual(JSON.parse(text).entries, [], key);
});

test("a stopped client gives its outbox away, and starts again", async () => {
  const { world, kept, opened: [one, two], offline } = await tabs(2);
  await offline();
  one.client.edit("n1", { title: "before the stop" });
  one.client.edit("n2", { title: "given up" });
  await one.client.stop();
  one.client.edit("n3", { title: "after the stop" });
  await one.client.stop();
  const entries = () => JSON.parse(kept.kept.get("outbox")).entries.map(({ id }) => id);
  assert.deepEqual(entries(), ["n1", "n2", "n3"]);
  await one.client.start();
  await world.time.pass(100);
  assert.deepEqual(entries(), ["n1", "n2", "n3"]);
  await one.client.stop();
  two.client.wake();
  await world.time.pass(100);
  assert.equal(two.client.get("n1").title, "before the stop");
  await one.client.start();
  world.refusing = false;
  await world.time.pass(2 * MINUTE);
  await inSync(world, one.client, MINUTE);
  await inSync(world, two.client, 100);
  const titles = world.server.snapshot.notes.map(({ id, title }) => `${id} ${title}`).sort();
  assert.deepEqual(titles, ["n1 before the stop", "n2 given up", "n3 after the stop"]);
  assert.deepEqual([...one.seen.conflict, ...two.seen.conflict], []);
});

test("signed out: the client of the next sign-in has the edits", async () => {
  const { world, open, opened: [before], offline } = await tabs(1);
  await offline();
  before.client.edit("n1", { title: "before the sign-out" });
  world.refusing = false;
  world.tokens.user = null;
  await world.time.pass(MINUTE);
  assert.equal(before.seen.status.at(-1).reason, "signed out");
  world.tokens.user = "alice";
  const after = await open(); // in the same page: the old client was not stopped
  await inSync(world, after.client);
  assert.equal(world.server.tables.notes.get("n1").row.title, "before the sign-out");
});

test("more tabs than outboxes: the last one says so, and works", async () => {
  const { world, opened } = await tabs(21);
  const last = opened.at(-1);
  assert.match(last.seen.error[0].message, /too many tabs/);
  last.client.edit("n1", { title: "from the last tab" });
  await inSync(world, last.client);
  assert.deepEqual(opened[19].seen.error, []);
});

test("slow saves do not overtake each other", async () => {
  const kept = new Map();
  let world;
  const slow = { load: () => null, save: (key, text) => new Promise((done) => world.time.at(500, () => { kept.set(key, text); done(); })) };
  const made = scene({ storage: slow });
  ({ world } = made);
  await made.client.start();
  await inSync(world, made.client);
  world.refusing = true;
  world.sockets[0].drop(1006);
  for (const title of ["a", "b", "c"]) made.client.edit("n1", { title });
  await world.time.pass(3_000);
  assert.equal(JSON.parse(kept.get("outbox")).entries[0].changes.title, "c");
});

test("a half-open connection is given up, also after an hour of sleep", async () => {
  for (const sleepMs of [0, 60 * MINUTE]) {
    const { world, client, seen } = scene();
    await client.start();
    await inSync(world, client);
    world.sockets[0].frozen = true;
    world.time.jump(sleepMs);
    await world.time.pass(sleepMs ? 5_000 : 40_000);
    assert.ok(seen.status.some(({ reason }) => reason === "no answer"));
    await inSync(world, client);
  }
});

test("a clock that is set back stops neither the keepalive nor the edits", async () => {
  const { world, client, seen } = scene();
  await client.start();
  await inSync(world, client);
  client.edit("n1", { title: "a" });
  client.edit("n1", { title: "ab" });
  world.setBack(60 * MINUTE);
  await inSync(world, client, 1_000);
  world.sockets[0].frozen = true;
  await world.time.pass(40_000);
  assert.ok(seen.status.some(({ reason }) => reason === "no answer"));
  await inSync(world, client, MINUTE);
});

test("a frozen tab keeps a connection that lives", async () => {
  const { world, client, seen } = scene();
  await client.start();
  await inSync(world, client);
  client.on("sent", () => Object.assign(world, { latencyMs: 12_500, random: () => 0.9 }));
  await world.time.pass(25_010); // a ping was sent, and its pong comes after 11 s
  world.time.jump(5 * MINUTE); // the timer of the missing pong fires first, and late
  await inSync(world, client);
  assert.equal(world.sockets.length, 1);
  assert.ok(!seen.status.some(({ reason }) => reason === "no answer"));
});

test("`online` and a shown page reconnect at once, and check what is connected", async () => {
  const handlers = {};
  const target = { addEventListener: (name, run) => (handlers[name] = run), removeEventListener: (name) => delete handlers[name] };
  const { world, client, seen } = scene({ environment: { target, document: { ...target, hidden: false } } });
  await client.start();
  await inSync(world, client);
  world.refusing = true;
  world.sockets[0].drop(1006);
  await world.time.pass(5 * MINUTE);
  world.refusing = false;
  handlers.online();
  await inSync(world, client, 1_000);
  world.sockets.at(-1).frozen = true;
  handlers.visibilitychange();
  await world.time.pass(3_100);
  const givenUp = () => seen.status.filter(({ reason }) => reason === "no answer").length;
  assert.equal(givenUp(), 1);
  await inSync(world, client, MINUTE);
  world.sockets.at(-1).frozen = true;
  handlers.offline(); // the badge must not say `in sync` until the next keepalive
  await world.time.pass(3_100);
  assert.equal(givenUp(), 2);
  await client.stop();
  assert.deepEqual(handlers, {});
});

test("authenticates again before the token expires, and when it has expired", async () => {
  const { world, client, seen } = scene();
  await client.start();
  await inSync(world, client);
  await world.time.pass(5 * MINUTE);
  const auths = seen.sent.filter(({ message }) => message.type === "auth").length;
  assert.ok(auths >= 6 && auths <= 8, `${auths}`);
  assert.ok(!seen.message.some(({ type }) => type === "auth_failed"));
  world.tokens.livesMs = -1;
  world.sockets[0].drop(1006);
  await world.time.pass(2_000);
  world.tokens.livesMs = MINUTE;
  await inSync(world, client, MINUTE);
});

test("signed out: no more attempts", async () => {
  const { world, client, seen } = scene();
  await client.start();
  await inSync(world, client);
  world.tokens.user = null;
  world.sockets[0].drop(4401, "session_revoked");
  await world.time.pass(60 * MINUTE);
  assert.equal(client.status, "offline");
  assert.deepEqual(seen.status.at(-1), { status: "offline", pending: 0, reason: "signed out" });
  assert.equal(world.sockets.length, 1);
  world.tokens.user = "alice";
  await client.start();
  await inSync(world, client);
});

test("no token while the browser is offline is not a sign-out", async () => {
  const target = { navigator: { onLine: false }, addEventListener: (name, run) => (target[name] = run), removeEventListener() {} };
  const { world, client, seen } = scene({ environment: { target } });
  world.tokens.user = null; // Clerk before Core 3
  await client.start();
  await world.time.pass(10 * MINUTE);
  assert.equal(seen.status.at(-1).reason, "no token");
  world.tokens.user = "alice";
  target.navigator.onLine = true;
  target.online();
  await inSync(world, client);
});

test("an address that cannot be opened is told", async () => {
  const { world, client, seen } = scene({ environment: { WebSocket: class { constructor(url) { throw new SyntaxError(`not an address: ${url}`); } } } });
  await client.start();
  await world.time.pass(MINUTE);
  assert.match(seen.error[0].message, /not an address/);
  assert.deepEqual([client.status, seen.status.some(({ reason, retryInMs }) => /not an address/.test(reason) && retryInMs >= 2_000)], ["offline", true]);
});

test("close codes are obeyed", async () => {
  for (const [code, least, most] of [[1012, 0, 600], [1013, 2_000, 6_100], [4401, 2_000, 6_100], [4429, 20_000, 40_100], [4999, 2_000, 6_100]]) {
    const { world, client, seen } = scene();
    await client.start();
    await inSync(world, client);
    world.sockets[0].drop(code, "why");
    const { retryInMs, reason } = seen.status.at(-1);
    assert.equal(reason, "why");
    assert.ok(retryInMs >= least && retryInMs <= most, `${code}: ${retryInMs}`);
    await inSync(world, client, most + 5_000);
  }
  const { world, client } = scene();
  await client.start();
  await inSync(world, client);
  world.sockets[0].drop(1000, "done");
  await world.time.pass(60 * MINUTE);
  assert.equal(world.sockets.length, 1);
});

test("a refused sign-in waits as long as the server says", async () => {
  for (const [code, retryAfterMs, least] of [[1013, 1_000, 2_000], [1013, 9_000, 9_000], [4429, 50_000, 50_000]]) {
    const { world, client, seen } = scene();
    world.refusing = true; // some attempts in vain
    await client.start();
    await world.time.pass(5_000);
    world.refusing = false;
    world.refusal = { code, retryAfterMs };
    await world.time.pass(30_000);
    const { retryInMs } = seen.status.find((event) => event.code === code);
    assert.ok(retryInMs >= least && retryInMs <= least + 30_000, `${code}: ${retryInMs}`);
    world.refusal = null;
    await inSync(world, client, 90_000);
  }
});

test("attempts are spread and become rarer", async () => {
  const { world, client } = scene();
  world.refusing = true;
  await client.start();
  await world.time.pass(60 * MINUTE);
  assert.ok(world.sockets.length > 100 && world.sockets.length < 400, `${world.sockets.length}`);
});

test("a refused token is no busy loop", async () => {
  const { world, client } = scene();
  world.tokens.revoked = true;
  await client.start();
  await world.time.pass(60 * MINUTE);
  assert.ok(world.sockets.length < 100, `${world.sockets.length}`);
});

test("request: reply, refusal, timeout, no connection", async () => {
  const { world, client } = scene();
  await assert.rejects(client.request({ type: "sync" }), { code: "DISCONNECTED" });
  await client.start();
  await inSync(world, client);
  const outcome = async (message, ms) => {
    const asked = client.request(message, { timeoutMs: 1_000 }).catch((error) => error);
    await world.time.pass(ms);
    return asked;
  };
  assert.equal((await outcome({ type: "sync" }, 100)).type, "sync_page");
  assert.equal((await outcome({ type: "sing" }, 100)).code, "UNKNOWN_TYPE");
  world.sockets[0].frozen = true;
  assert.equal((await outcome({ type: "sync" }, 1_100)).code, "TIMEOUT");
  assert.equal((await outcome({ type: "sync" }, 60_000)).code, "TIMEOUT");
});

test("signed messages hold, also with a wrong clock", async () => {
  const { world, client, seen } = scene({ sign: true, environment: {} });
  const skewed = device(world, { sign: true, environment: { now: () => world.time.now - 50 * MINUTE } });
  for (const each of [{ client, seen }, skewed]) {
    await each.client.start();
    await inSync(world, each.client);
    each.client.edit("n1", { title: `é ${Math.random()} \ud83d` });
    await inSync(world, each.client);
    assert.deepEqual(each.seen.error, []);
  }
  assert.ok(world.server.signed > 4);
});

test("put and remove take what the app's own REST requests did", async () => {
  const { world, client } = scene();
  await client.start();
  await inSync(world, client);
  const row = world.server.note("n7");
  world.server.put("notes", row);
  client.put("notes", row);
  client.put("notes", { ...row, title: "older", updatedAt: "2020-01-01T00:00:00.000Z" });
  world.server.tables.notes.delete("n1");
  client.remove("notes", "n1");
  equal(world, client);
  world.server.heal();
  await inSync(world, client);
});

test("a listener that throws does no harm, and is not hidden", async () => {
  const { world, client } = scene();
  client.on("message", () => { throw new Error("app's mistake"); });
  await client.start();
  await assert.rejects(world.time.pass(5_000), /app's mistake/);
  for (let n = 0; n < 50; n += 1) await world.time.pass(200).catch(() => {});
  assert.equal(client.status, "in sync");
});

test("a connection cut at any byte leaves nothing wrong", async () => {
  let length = Infinity;
  for (let cut = 0; cut <= length; cut += 1) {
    const { world, client, seen } = scene();
    world.cutAt = cut;
    await client.start();
    await world.time.pass(200);
    const edited = [...client.notes.keys()].slice(0, 1);
    for (const id of edited) client.edit(id, { title: `cut at ${cut}` });
    await inSync(world, client, 2_000);
    for (const id of edited) assert.equal(client.get(id).title, `cut at ${cut}`);
    assert.deepEqual(seen.conflict, []);
    if (world.sockets.length === 1) length = cut; // it was not cut: there are no more bytes
  }
  assert.ok(length > 2_000, `${length}`);
});

test("nothing is left behind after stop", async () => {
  const { world, client } = scene({ storage: storage() });
  await client.start();
  await inSync(world, client);
  client.edit("n1", { title: "x" });
  await client.stop();
  await world.time.pass(100); // what was on the network
  assert.equal(client.status, "offline");
  assert.equal(world.server.devices.size, 0);
  assert.equal(world.time.waiting, 0);
});
