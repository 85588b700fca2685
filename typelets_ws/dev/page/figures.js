/** The daemon's own figures, asked for every second. */

import { api } from "./api.js";
import { el } from "./dom.js";

const EVERY_MS = 1_000;

const TILES = [
  ["Devices", (now) => now.connections.authenticated],
  ["Connections", (now) => now.connections.total],
  ["Messages in", (now) => now.totals.messages ?? 0],
  ["Events from Redis", (now) => now.totals.events ?? 0],
  ["Delivered", (now) => now.totals.deliveries ?? 0],
  ["Resyncs", (now) => now.totals.resyncs ?? 0],
  ["Redis failovers", (now) => now.totals.redis_failovers ?? 0],
  ["Refusals", (now) => now.totals.security_events ?? 0],
  ["Uptime", (now) => now.uptime],
];

export class Figures {
  #status = el("span", { className: "state", role: "status" }, "…");
  #users = el("span", { className: "users" });
  #values = TILES.map(([title]) => el("dd", { data: { figure: title } }, "–"));

  #listener;

  /** `listener(figures)` is called with each answer. */
  constructor(listener) {
    this.#listener = listener;
    const tiles = TILES.map(([title], index) => el("div", {}, el("dt", {}, title), this.#values[index]));
    this.status = this.#status;
    this.element = el("section", { className: "figures", "aria-label": "Figures" }, el("dl", {}, ...tiles), this.#users);
  }

  async run() {
    for (;;) {
      if (!document.hidden) await this.#look();
      await new Promise((done) => setTimeout(done, EVERY_MS));
    }
  }

  async #look() {
    let now;
    try {
      now = await api.figures();
    } catch {
      this.#show("down", "not reachable");
      return;
    }
    this.#listener(now);
    const redis = now.redis ? ` · Redis ${now.redis}` : "";
    this.#show(now.status, [now.status, ...now.reasons].join(": ") + redis);
    TILES.forEach(([, read], index) => {
      const value = this.#values[index];
      const text = String(read(now));
      if (value.textContent === text) return;
      value.textContent = text;
      value.getAnimations().forEach((animation) => animation.cancel());
      value.animate([{ color: "var(--accent)" }, {}], 900);
    });
    const users = now.connections.perUser.map(({ userId, deviceCount }) => `${userId} × ${deviceCount}`);
    this.#users.replaceChildren(...(users.length ? users : ["No devices are connected."]).map((text) => el("span", {}, text)));
  }

  #show(status, text) {
    document.body.dataset.status = status;
    if (this.#status.textContent !== text) this.#status.textContent = text;
  }
}
