/** The page: devices side by side, the REST service, and the daemon's figures. */

import { api } from "./api.js";
import { Figures } from "./figures.js";
import { Pane } from "./pane.js";
import { RestSide } from "./rest.js";

const NAMES = ["Laptop", "Phone", "Tablet", "Desktop", "Browser", "Watch"];

const users = await api.users();
const place = document.querySelector("#panes");
const add = document.querySelector("#add");
const panes = [];

const figures = new Figures();
document.querySelector("#status").append(figures.status);
document.querySelector("#figures").append(figures.element);

const rest = new RestSide(users, () => panes);
document.querySelector("#rest").append(rest.element);

function addPane() {
  const name = NAMES.find((each) => panes.every((pane) => pane.name !== each));
  const pane = new Pane(name, users, changed);
  panes.push(pane);
  place.append(pane.element);
  changed(pane);
}

function changed(pane) {
  if (panes.includes(pane) && !pane.element.isConnected) panes.splice(panes.indexOf(pane), 1);
  add.disabled = panes.length === NAMES.length;
  rest.refresh();
}

add.onclick = addPane;
addPane();
addPane();
figures.run();
