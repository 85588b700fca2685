-- All that the daemon's role needs: it reads ownership and the row it has written,
-- and writes the allowed columns of notes. Nothing of users, no insert, no delete.
-- CREATE ROLE typelets_ws LOGIN PASSWORD '...';
GRANT USAGE ON SCHEMA public TO typelets_ws;
GRANT SELECT (id, user_id) ON folders TO typelets_ws;
GRANT SELECT (
    id, user_id, folder_id, title, content, type, encrypted_title,
    encrypted_content, iv, salt, starred, archived, deleted, hidden, hidden_at,
    tags, created_at, updated_at
) ON notes TO typelets_ws;
GRANT UPDATE (
    title, content, encrypted_title, encrypted_content, starred, archived,
    deleted, hidden, folder_id, updated_at
) ON notes TO typelets_ws;
