/** The little that is wanted of a framework. */

/** An element with properties (`data` for data-attributes) and children. */
export function el(tag, { data = {}, ...properties } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  Object.assign(element.dataset, data);
  element.append(...children);
  return element;
}

/**
 * A button. `why()` returns the reason why it cannot act, or "". The reason is its
 * tooltip and its description, and a click says it. Call `button.check()` after changes.
 */
export function action(text, run, { why = () => "", ...properties } = {}) {
  const button = el("button", { type: "button", ...properties }, text);
  const hint = button.title;
  button.check = () => {
    const reason = why();
    if (reason) button.setAttribute("aria-disabled", "true");
    else button.removeAttribute("aria-disabled");
    button.title = reason || hint;
  };
  button.onclick = async (event) => {
    const reason = why();
    if (reason) return say(reason);
    try {
      await run(event);
    } catch (error) {
      fail(error);
    }
  };
  button.check();
  return button;
}

/** Tell the user something, read out by screen readers too. */
export function say(text) {
  const line = document.querySelector("#say");
  line.classList.remove("failed");
  line.textContent = text;
}

/** Show a failure; it stays until the next thing said. */
export function fail(error) {
  say(error.message);
  document.querySelector("#say").classList.add("failed");
}

/** Fill a <select> with [value, text] pairs; the choice stays, if it is still there. */
export function fill(select, pairs, empty = "none") {
  const chosen = select.value;
  const options = pairs.map(([value, text]) => new Option(text, value));
  select.replaceChildren(...(options.length ? options : [new Option(empty, "")]));
  if (pairs.some(([value]) => value === chosen)) select.value = chosen;
}

/** Bring children up to date by key, so that an element keeps its keyboard focus. */
export function keyed(parent, items, keyOf, create, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  const at = [...parent.children].indexOf(focused);
  const wanted = items.map((item) => {
    const key = keyOf(item);
    const child = known.get(key) ?? create(item);
    child.dataset.key = key;
    update(child, item);
    return child;
  });
  for (const child of [...parent.children]) if (!wanted.includes(child)) child.remove();
  wanted.forEach((child, index) => {
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
  if (!focused) return;
  if (focused.isConnected) focused.focus();
  else parent.children[Math.min(at, parent.children.length - 1)]?.focus();
}

/** Set a field's value without moving the caret of its user. */
export function setValue(field, value) {
  if (field.value === value) return;
  const { selectionStart, selectionEnd } = field;
  field.value = value;
  if (document.activeElement === field) field.setSelectionRange(selectionStart, selectionEnd);
}

/** The time of day with milliseconds. */
export function clock(date = new Date()) {
  return date.toLocaleTimeString("en-GB") + `.${`${date.getMilliseconds()}`.padStart(3, "0")}`;
}
