/** A list of notes in the browser: the app of tests/client/test_app.py. */
import { TypeletsClient } from "./typelets-client.js";

const $ = (id) => document.getElementById(id);
const { daemon, user } = await (await fetch("/settings")).json();
const storage = {
  load: (key) => localStorage.getItem(`notes ${key}`),
  save: (key, text) => localStorage.setItem(`notes ${key}`, text),
};
const getToken = async () => (await fetch(`/token?user=${user}`)).json();
const client = new TypeletsClient(daemon, { getToken, storage });
const conflicts = new Map();

client.on("status", ({ status, pending, reason }) => {
  $("status").textContent = status;
  $("pending").textContent = pending ? `${pending} not stored yet` : reason;
});
client.on("conflict", (conflict) => {
  conflicts.set(conflict.noteId, conflict);
  show();
});
client.on("change", show);
client.on("error", (error) => console.log(error.message));

function show() {
  const notes = client.list().filter((note) => !note.deleted);
  const items = notes.map((note) => document.getElementById(note.id) ?? item(note.id));
  items.forEach((element, index) => {
    const title = element.querySelector("input");
    if (title.value !== notes[index].title) title.value = notes[index].title;
    const conflict = conflicts.get(notes[index].id);
    const theirs = element.querySelector("output");
    theirs.hidden = !conflict || !client.isPending(notes[index].id);
    theirs.textContent = conflict?.theirs ? `elsewhere: ${conflict.theirs.title}` : "";
    for (const button of element.querySelectorAll("button")) button.hidden = theirs.hidden;
  });
  for (const element of [...$("notes").children]) if (!items.includes(element)) element.remove();
  for (const element of items) if (!element.isConnected) $("notes").append(element);
}

function item(id) {
  const element = document.createElement("li");
  element.id = id;
  element.innerHTML = "<input aria-label='Title'><output></output><button>Mine</button><button>Theirs</button>";
  element.querySelector("input").oninput = ({ target }) => client.edit(id, { title: target.value });
  const [mine, theirs] = element.querySelectorAll("button");
  mine.onclick = () => client.resolve(id, conflicts.get(id).changes);
  theirs.onclick = () => client.resolve(id, null);
  return element;
}

await client.start();
