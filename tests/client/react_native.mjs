/**
 * The client under the constraints of React Native 0.74: its globals and no others (no
 * `document`, `addEventListener`, `crypto`, `navigator.locks`), and its WebSocket.
 *
 * What its WebSocket does differently (packages/react-native/Libraries/WebSocket):
 * events are emitted by a native module and come later; `close` while connecting does
 * nothing on Android, so the socket opens all the same; a connection that fails closes
 * with 1006 and the error's text as reason; `send` on a closed socket says nothing.
 */
import { readFileSync } from "node:fs";
import vm from "node:vm";

/** The class `WebSocket` of React Native, over a native one. */
function reactNativeSocket(Native) {
  return class WebSocket {
    readyState = 0;
    #native;
    #connected = false;

    constructor(url) {
      this.#native = new Native(url);
      this.#native.on("open", () => {
        this.#connected = true;
        this.#later(() => this.#emit("open", {}, 1));
      });
      this.#native.on("message", (data) => this.#later(() => this.#emit("message", { data: String(data) })));
      this.#native.on("error", ({ message }) => this.#ended("error", 1006, message));
      this.#native.on("close", (code, reason) => this.#ended("closed", code, String(reason)));
    }

    #later(run) {
      setImmediate(run);
    }

    #ended(how, code, reason) {
      this.#native.removeAllListeners();
      this.#native.on("error", () => {});
      this.#later(() => {
        this.readyState = 3;
        if (how === "error") this.#emit("error", {});
        this.#emit("close", { code, reason });
      });
    }

    #emit(name, event, state = this.readyState) {
      this.readyState = state;
      this[`on${name}`]?.({ type: name, ...event });
    }

    send(data) {
      if (this.readyState === 0) throw new Error("INVALID_STATE_ERR");
      if (this.#connected) this.#native.send(data, () => {});
    }

    close(code = 1000, reason = "") {
      if (this.readyState >= 2) return;
      this.readyState = 2;
      if (this.#connected) this.#native.close(code, reason);
    }
  };
}

/** `AppState` of React Native; `become` is what the system does. */
export class AppState {
  #listeners = [];

  addEventListener(name, listener) {
    if (name === "change") this.#listeners.push(listener);
  }

  become(state) {
    for (const listener of this.#listeners) listener(state);
  }
}

/** The module's exports, evaluated there; `Native` is the class below its WebSocket. */
export async function loadInReactNative(path, Native) {
  const names = ["setTimeout", "clearTimeout", "setInterval", "clearInterval", "console", "TextEncoder", "atob", "btoa"];
  const globals = Object.fromEntries(names.map((name) => [name, globalThis[name]]));
  const context = vm.createContext({ ...globals, WebSocket: reactNativeSocket(Native), navigator: { product: "ReactNative" } });
  vm.runInContext("globalThis.window = globalThis.global = globalThis.self = globalThis", context);
  const module = new vm.SourceTextModule(readFileSync(path, "utf8"), { context, identifier: path });
  await module.link((name) => {
    throw new Error(`the module imports ${name}`);
  });
  await module.evaluate();
  return module.namespace;
}
