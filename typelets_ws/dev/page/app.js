/** The page: devices side by side, the REST service, faults, and the daemon's figures. */

import { api } from "./api.js";
import { action, fail } from "./dom.js";
import { Faults } from "./faults.js";
import { Figures } from "./figures.js";
import { Pane } from "./pane.js";
import { RestSide } from "./rest.js";

const NAMES = ["Laptop", "Phone", "Tablet", "Desktop", "Browser", "Watch"];

const place = document.querySelector("#panes");
const panes = [];

function page(users) {
  const rest = new RestSide(users, () => panes);
  const faults = new Faults(users);
  const figures = new Figures((now) => faults.show(now));
  document.querySelector("#status").append(figures.status);
  document.querySelector("#figures").append(figures.element);
  document.querySelector("#rest").append(rest.element, faults.element);

  const add = action("Add a device", addPane, {
    id: "add",
    why: () => (panes.length === NAMES.length ? `This page shows at most ${NAMES.length} devices: remove one first.` : ""),
  });
  document.querySelector("#devices").append(add);

  function addPane() {
    const name = NAMES.find((each) => panes.every((pane) => pane.name !== each));
    const pane = new Pane(name, users, changed);
    panes.push(pane);
    place.append(pane.element);
    changed(pane);
  }

  function changed(pane) {
    if (panes.includes(pane) && !pane.element.isConnected) {
      panes.splice(panes.indexOf(pane), 1);
      add.focus();
    }
    add.check();
    rest.refresh();
  }

  addPane();
  addPane();
  figures.run();
}

api.users().then(page).catch(fail);
