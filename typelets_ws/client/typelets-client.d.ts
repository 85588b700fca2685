/** @param {Uint8Array} message @returns {Uint8Array} 32 bytes */
export function sha256(message: Uint8Array): Uint8Array;
/**
 * A request that failed. `code` is the server's (`NOT_FOUND`, `RATE_LIMITED`, …) or ours:
 * `TIMEOUT` and `DISCONNECTED` (the outcome is unknown), `STORAGE`, `DIGEST`, `OTHER_USER`.
 */
export class TypeletsError extends Error {
    /** @param {string} code @param {string} message @param {Message} [reply] */
    constructor(code: string, message: string, reply?: Message);
    code: string;
    reply: Message | undefined;
    /** @type {number | undefined} */
    retryAfterMs: number | undefined;
}
/** Keeps a copy of one user's notes. Make a new client for another user. */
export class TypeletsClient {
    /**
     * @param {string} url for example wss://ws.example.com/
     * @param {Options} options
     */
    constructor(url: string, { getToken, storage, sign, environment }: Options);
    /** @type {ReadonlyMap<string, Note>} rows as the server sent them */
    notes: ReadonlyMap<string, Note>;
    /** @type {ReadonlyMap<string, Folder>} */
    folders: ReadonlyMap<string, Folder>;
    /** Sent along with REST requests (`exceptConnectionId`). Empty while not connected. */
    connectionId: string;
    /** Known after the first `auth_success`, or from the storage. */
    userId: string;
    /** Whether messages are signed from now on. */
    sign: boolean;
    /** @returns {Status} */
    get status(): Status;
    /**
     * Listen to an event; returns a function that ends it.
     * @template {keyof Events} Name
     * @param {Name} name
     * @param {(event: Events[Name]) => void} listener
     * @returns {() => void}
     */
    on<Name extends keyof Events>(name: Name, listener: (event: Events[Name]) => void): () => void;
    /** Connect, and stay connected until `stop`. Resolves when the storage was read. */
    start(): Promise<void>;
    /** Disconnect. Edits stay in the outbox. Resolves when the storage took them. */
    stop(): Promise<void>;
    /** Resolves when the storage took all edits made so far. */
    saved(): Promise<void>;
    /**
     * Check the connection now, or reconnect now. Called by itself when the network has gone
     * or come back, or the page is shown; in React Native call it when AppState becomes `active`.
     */
    wake(): void;
    /** The note with unconfirmed edits laid over it. @param {string} id @returns {Note | undefined} */
    get(id: string): Note | undefined;
    /** All notes, as `get` gives them. @returns {Note[]} */
    list(): Note[];
    /** Whether an edit of the note is not confirmed yet. @param {string} id */
    isPending(id: string): boolean;
    /**
     * Change a note here and on the server, now or when there is a connection.
     * Throws TypeError for a note or a field that cannot be edited.
     * @param {string} id @param {NoteChanges} changes
     */
    edit(id: string, changes: NoteChanges): void;
    /**
     * Answer a conflict: what to store over `theirs`, or null to give the edits up. An edit
     * of a note in conflict emits the conflict again, so the last event has all changes.
     * @param {string} noteId @param {NoteChanges | null} changes
     */
    resolve(noteId: string, changes: NoteChanges | null): void;
    /**
     * Take a row from the answer of your own REST request. A row older than the one held
     * is ignored. @param {Kind} kind @param {Note | Folder} row
     */
    put(kind: Kind, row: Note | Folder): void;
    /** Forget a row that your own REST request deleted. @param {Kind} kind @param {string} id */
    remove(kind: Kind, id: string): void;
    /** All rows, loaded over REST after a `refetch` event. @param {{ notes: Note[], folders: Folder[] }} all */
    replace(all: {
        notes: Note[];
        folders: Folder[];
    }): void;
    /**
     * Send a message and wait for its reply. Rejects with TypeletsError.
     * @param {Message} message @param {{ timeoutMs?: number }} [options]
     * @returns {Promise<any>}
     */
    request(message: Message, { timeoutMs }?: {
        timeoutMs?: number;
    }): Promise<any>;
    #private;
}
export type Row = {
    id: string;
    updatedAt: string;
};
/**
 * A note, as the database holds it.
 */
export type Note = Row & {
    userId: string;
    folderId: string | null;
    title: string;
    content: string | null;
    type: string;
    encryptedTitle: string | null;
    encryptedContent: string | null;
    iv: string | null;
    salt: string | null;
    starred: boolean | null;
    archived: boolean | null;
    deleted: boolean | null;
    hidden: boolean | null;
    hiddenAt: string | null;
    tags: string[] | null;
    createdAt: string;
};
export type Folder = Row & {
    userId: string;
    name: string;
    color: string | null;
    parentId: string | null;
    sortOrder: number;
    isDefault: boolean | null;
    createdAt: string;
};
/**
 * What an edit may change.
 */
export type NoteChanges = Partial<Pick<Note, "title" | "content" | "encryptedTitle" | "encryptedContent" | "starred" | "archived" | "deleted" | "hidden" | "folderId">>;
export type Message = {
    type: string;
    requestId?: string;
    [field: string]: any;
};
export type Kind = "notes" | "folders";
export type Maybe<Value> = Value | Promise<Value>;
export type Status = "offline" | "connecting" | "catching up" | "in sync";
export type StatusEvent = {
    status: Status;
    /**
     * notes with edits that the server has not confirmed
     */
    pending: number;
    /**
     * why the client is offline: text of the close, `stopped`,
     * `signed out`, `no token`, `no answer`, `other user`
     */
    reason: string;
    /**
     * close code
     */
    code?: number | undefined;
    /**
     * until the next attempt; absent when there is none
     */
    retryInMs?: number | undefined;
};
export type Conflict = {
    noteId: string;
    /**
     * what the user edited here and the server has not stored
     */
    changes: NoteChanges;
    /**
     * the values of these fields when the user began to edit
     */
    base: NoteChanges;
    /**
     * the stored row; null when it is gone
     */
    theirs: Note | null;
    /**
     * the server's refusal, when there was one
     */
    error?: TypeletsError | undefined;
};
/**
 * Names of events, and what their listeners get.
 */
export type Events = {
    /**
     * for a badge
     */
    status: StatusEvent;
    /**
     * ids to show again
     */
    change: {
        notes: string[];
        folders: string[];
    };
    /**
     * answer with `resolve`
     */
    conflict: Conflict;
    /**
     * the server has no `sync`: load all rows over
     * REST and hand them to `replace`
     */
    refetch: {
        reason: string;
    };
    /**
     * of storage, of the server, of the digest; for a log
     */
    error: Error;
    /**
     * each message received
     */
    message: Message;
    /**
     * each message sent
     */
    sent: {
        message: Message;
        signed: boolean;
    };
};
/**
 * What tests replace. `target` and `document` have `addEventListener`, or are undefined.
 */
export type Environment = {
    now: () => number;
    random: () => number;
    WebSocket: any;
    target: any;
    document: any;
    locks: any;
    setTimeout: (run: () => void, ms: number) => any;
    clearTimeout: (timer: any) => void;
};
/**
 * Both functions may be asynchronous. Keys are `rows`, and `outbox` with the number of a
 * tab. Tabs may share a storage where there are Web Locks (https).
 */
export type StorageAdapter = {
    /**
     * the text last saved
     * under the key, or null
     */
    load: (key: string) => Maybe<string | null | undefined>;
    save: (key: string, text: string) => any;
    /**
     * tells apart several storages of one user and origin
     */
    name?: string | undefined;
};
export type Options = {
    /**
     * a session
     * token; null when the user is signed out. As Clerk's `session.getToken`.
     */
    getToken: (how: {
        skipCache: boolean;
    }) => Maybe<string | null>;
    /**
     * keeps edits and rows while the app is not running
     */
    storage?: StorageAdapter | undefined;
    /**
     * sign messages (default false)
     */
    sign?: boolean | undefined;
    environment?: Partial<Environment> | undefined;
};
export type Sync = {
    mode: "changes" | "ids" | "all";
    /**
     * ids of rows changed by live events meanwhile
     */
    touched: Set<string>;
    /**
     * ids on the pages so far
     */
    seen: Set<string>;
    again: boolean;
};
