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

/** Fill a <select> with [value, text] pairs; what was chosen stays, if it is there. */
export function fill(select, pairs) {
  const chosen = select.value;
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
  if (pairs.some(([value]) => value === chosen)) select.value = chosen;
}

/** Set a field's value without moving the caret of who is typing in it. */
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
