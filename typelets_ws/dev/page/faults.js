/** Faults on demand, to watch how the devices come through them. */

import { api } from "./api.js";
import { action, el, fill, say } from "./dom.js";

const CLOSES = {
  1012: "1012 restarting",
  1013: "1013 too slow",
  4401: "4401 not authenticated",
  4429: "4429 too many",
};
const CODES = ["UNAVAILABLE", "RATE_LIMITED", "INVALID_FIELD", "NOT_FOUND", "INTERNAL"];

export class Faults {
  #user = el("select", { "aria-label": "User of the faults" });
  #close = el("select", { "aria-label": "Close code" });
  #code = el("select", { "aria-label": "Error code" });
  #redis;
  #redisIsStopped = false;

  constructor(users) {
    fill(this.#user, users.map((user) => [user, user]));
    fill(this.#close, Object.entries(CLOSES));
    fill(this.#code, CODES.map((code) => [code, code]));
    this.#redis = action("Stop Redis", () => this.#toggleRedis(), {
      data: { fault: "redis" },
      title: "Events are not delivered to other processes, then healed",
    });
    this.element = el(
      "section",
      { className: "card rest", "aria-label": "Faults" },
      el("header", {}, el("h2", {}, "Faults")),
      el("p", {}, "Cause one, and watch the devices until they are in sync again."),
      row("User", this.#user),
      row("Close", this.#close, this.#button("close", "Close connections", () => ({ user: this.#user.value, code: this.#close.value }))),
      row("Error", this.#code, this.#button("error", "Refuse the next edit", () => ({ user: this.#user.value, code: this.#code.value }))),
      row("Redis", this.#redis),
    );
  }

  /** Redis may have been stopped before the page was loaded, or by another one. */
  show({ redisIsStopped }) {
    this.#redisIsStopped = redisIsStopped;
    const text = redisIsStopped ? "Start Redis" : "Stop Redis";
    if (this.#redis.textContent !== text) this.#redis.textContent = text;
  }

  #button(kind, text, fields) {
    const run = async () => say((await api.fault(kind, fields())).done);
    return action(text, run, { data: { fault: kind } });
  }

  async #toggleRedis() {
    const { done } = await api.fault("redis", { action: this.#redisIsStopped ? "start" : "stop" });
    this.show({ redisIsStopped: !this.#redisIsStopped });
    say(done);
  }
}

function row(title, field, ...buttons) {
  return el("div", { className: "row" }, el("span", {}, title), field, el("div", { className: "buttons" }, ...buttons));
}
