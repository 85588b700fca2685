/** The paths that `typelets-ws dev` serves for this page; a real app has its REST. */

import { SignedOut } from "./client.js";

async function get(path, query = {}) {
  const headers = { "X-Typelets-Dev": "1" }; // no foreign page can send this
  const answer = await fetch(`/dev/${path}?${new URLSearchParams(query)}`, { headers });
  const body = await answer.json();
  if (answer.status === 401) throw new SignedOut(body.error);
  if (!answer.ok) throw new Error(body.error);
  return body;
}

export const api = {
  users: () => get("users"),
  token: async (user, session) => (await get("token", { user, session })).token,
  notes: (user) => get("notes", { user }),
  publish: (user, event, fields) => get("publish", { user, event, ...fields }),
  figures: () => get("figures"),
};
