/** The paths that `typelets-ws dev` serves for this page; a real app has its REST. */

async function get(path, query = {}) {
  const headers = { "X-Typelets-Dev": "1" }; // no foreign page can send this
  let answer;
  try {
    answer = await fetch(`/dev/${path}?${new URLSearchParams(query)}`, { headers });
  } catch {
    throw new Error("typelets-ws dev is not reachable");
  }
  const body = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(body.error), { status: answer.status });
  return body;
}

export const api = {
  users: () => get("users"),
  /** A token, or null for a session that was revoked. */
  token: (user, session) =>
    get("token", { user, session }).then(
      ({ token }) => token,
      (error) => {
        if (error.status === 401) return null;
        throw error;
      },
    ),
  notes: (user) => get("notes", { user }),
  publish: (user, event, fields) => get("publish", { user, event, ...fields }),
  fault: (kind, fields) => get("fault", { kind, ...fields }),
  figures: () => get("figures"),
};
