-- The REST service's tables, as far as this daemon knows them. The REST service
-- owns and migrates them; this copy is for development and tests only.
-- Every timestamp is without zone and means UTC.

CREATE TABLE users (
    id text PRIMARY KEY,
    email text NOT NULL,
    first_name text,
    last_name text,
    created_at timestamp NOT NULL DEFAULT now(),
    updated_at timestamp NOT NULL DEFAULT now()
);

CREATE TABLE folders (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name text NOT NULL,
    color text DEFAULT '#6b7280',
    parent_id uuid,
    sort_order integer NOT NULL DEFAULT 0,
    is_default boolean DEFAULT false,
    created_at timestamp NOT NULL DEFAULT now(),
    updated_at timestamp NOT NULL DEFAULT now()
);

CREATE INDEX folders_user_id_idx ON folders (user_id);

CREATE TABLE notes (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    folder_id uuid REFERENCES folders (id) ON DELETE SET NULL,
    title text NOT NULL,
    content text DEFAULT '',
    type text NOT NULL DEFAULT 'note',
    encrypted_title text,
    encrypted_content text,
    iv text,
    salt text,
    starred boolean DEFAULT false,
    archived boolean DEFAULT false,
    deleted boolean DEFAULT false,
    hidden boolean DEFAULT false,
    hidden_at timestamp,
    tags text[] DEFAULT '{}',
    created_at timestamp NOT NULL DEFAULT now(),
    updated_at timestamp NOT NULL DEFAULT now()
);

CREATE INDEX notes_user_id_idx ON notes (user_id);
CREATE INDEX notes_folder_id_idx ON notes (folder_id);
CREATE INDEX notes_user_id_updated_at_idx ON notes (user_id, updated_at DESC);
