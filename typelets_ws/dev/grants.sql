-- All that the daemon's role needs: it reads ownership and the row it has written,
-- and writes the allowed columns of notes. Nothing of users, no insert, no delete.
-- CREATE ROLE typelets_ws LOGIN PASSWORD '...';
GRANT USAGE ON SCHEMA public TO typelets_ws;
-- xmin is the transaction that wrote a row: recovery finds missed changes by it. With
-- only (id, user_id) of folders and no xmin, recovery is off and the rest works.
GRANT SELECT (
    id, user_id, name, color, parent_id, sort_order, is_default, created_at,
    updated_at, xmin
) ON folders TO typelets_ws;
GRANT SELECT (
    id, user_id, folder_id, title, content, type, encrypted_title,
    encrypted_content, iv, salt, starred, archived, deleted, hidden, hidden_at,
    tags, created_at, updated_at, xmin
) ON notes TO typelets_ws;
GRANT UPDATE (
    title, content, encrypted_title, encrypted_content, starred, archived,
    deleted, hidden, folder_id, updated_at
) ON notes TO typelets_ws;
