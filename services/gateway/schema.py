"""The store's tables, as a row of migrations: each brings a store from one version to the next."""

MIGRATIONS = (
    # 1
    """
    CREATE TABLE updates(
        bot_id INTEGER, update_id INTEGER, identity BLOB, received_at INTEGER NOT NULL,
        PRIMARY KEY(bot_id, update_id, identity)) WITHOUT ROWID;
    CREATE TABLE wordings(
        chat_id INTEGER, message_id INTEGER, digest BLOB NOT NULL, received_at INTEGER NOT NULL,
        PRIMARY KEY(chat_id, message_id)) WITHOUT ROWID;
    CREATE TABLE conversations(
        chat_id INTEGER, thread_id INTEGER, number INTEGER NOT NULL,
        PRIMARY KEY(chat_id, thread_id)) WITHOUT ROWID;
    CREATE TABLE asks(
        id INTEGER PRIMARY KEY AUTOINCREMENT, reply_id INTEGER NOT NULL, user_id INTEGER NOT NULL,
        chat_id INTEGER NOT NULL, thread_id INTEGER NOT NULL, message_id INTEGER NOT NULL,
        conversation INTEGER NOT NULL, language TEXT NOT NULL, text TEXT NOT NULL,
        state TEXT NOT NULL, received_at REAL NOT NULL);
    CREATE INDEX asks_of_chat ON asks(chat_id, thread_id);
    CREATE INDEX asks_of_user ON asks(user_id);
    CREATE INDEX asks_of_reply ON asks(reply_id);
    CREATE TABLE replies(
        id INTEGER PRIMARY KEY AUTOINCREMENT, chat_id INTEGER NOT NULL, thread_id INTEGER NOT NULL,
        reply_to INTEGER NOT NULL, text TEXT NOT NULL, closed INTEGER NOT NULL,
        button_label TEXT NOT NULL, button_data TEXT NOT NULL);
    CREATE TABLE parts(
        reply_id INTEGER, position INTEGER, message_id INTEGER NOT NULL,
        PRIMARY KEY(reply_id, position)) WITHOUT ROWID;
    CREATE TABLE turns(
        id INTEGER PRIMARY KEY AUTOINCREMENT, chat_id INTEGER NOT NULL, thread_id INTEGER NOT NULL,
        role TEXT NOT NULL, text TEXT NOT NULL, created_at INTEGER NOT NULL);
    CREATE INDEX turns_of_chat ON turns(chat_id, thread_id, id);
    CREATE TABLE usage(
        user_id INTEGER, day TEXT, asks INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
        answer_tokens INTEGER NOT NULL, engine_ms INTEGER NOT NULL,
        PRIMARY KEY(user_id, day)) WITHOUT ROWID;
    CREATE TABLE counters(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    """,
    # 2: an ask of several messages; what an unfinished answer has cost; guests.
    """
    CREATE TABLE pieces(
        ask_id INTEGER, position INTEGER, message_id INTEGER NOT NULL, text TEXT NOT NULL,
        sent_at INTEGER NOT NULL, PRIMARY KEY(ask_id, position)) WITHOUT ROWID;
    INSERT INTO pieces SELECT id, 0, message_id, text, CAST(received_at AS INTEGER) FROM asks;
    ALTER TABLE asks DROP COLUMN text;
    ALTER TABLE asks ADD COLUMN prompt_tokens INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE asks ADD COLUMN answer_tokens INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE asks ADD COLUMN engine_ms INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE guests(user_id INTEGER PRIMARY KEY, since INTEGER NOT NULL);
    """,
    # 3: several buttons under a reply; how it is written: the model writes Markdown, the bot does
    # not; the latest exchange of each chat, for another answer to it.
    """
    ALTER TABLE replies ADD COLUMN buttons TEXT NOT NULL DEFAULT '[]';
    UPDATE replies SET buttons = json_array(json_object('label', button_label, 'data', button_data))
        WHERE button_data != '';
    ALTER TABLE replies DROP COLUMN button_label;
    ALTER TABLE replies DROP COLUMN button_data;
    ALTER TABLE replies ADD COLUMN markup TEXT NOT NULL DEFAULT 'plain';
    UPDATE replies SET markup = 'markdown' WHERE id IN (SELECT reply_id FROM asks);
    CREATE TABLE exchanges(
        chat_id INTEGER, thread_id INTEGER, ask_id INTEGER NOT NULL, user_id INTEGER NOT NULL,
        message_id INTEGER NOT NULL, first_turn INTEGER NOT NULL, parts TEXT NOT NULL,
        PRIMARY KEY(chat_id, thread_id)) WITHOUT ROWID;
    CREATE INDEX exchanges_of_ask ON exchanges(ask_id);
    """,
    # 4: the file that goes with a reply.
    """
    CREATE TABLE files(
        reply_id INTEGER PRIMARY KEY, name TEXT NOT NULL, content TEXT NOT NULL);
    """,
    # 5: what users have chosen, and where the menus stand; what an ask refers to.
    """
    ALTER TABLE pieces ADD COLUMN context TEXT NOT NULL DEFAULT '';
    CREATE TABLE preferences(
        user_id INTEGER PRIMARY KEY, language TEXT NOT NULL, persona TEXT NOT NULL,
        instruction TEXT NOT NULL, style TEXT NOT NULL, length TEXT NOT NULL,
        streaming INTEGER NOT NULL, reasoning INTEGER NOT NULL);
    ALTER TABLE exchanges ADD COLUMN pieces INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE replies ADD COLUMN menu_of INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE menus(
        chat_id INTEGER, message_id INTEGER, thread_id INTEGER NOT NULL, user_id INTEGER NOT NULL,
        received_at INTEGER NOT NULL, PRIMARY KEY(chat_id, message_id)) WITHOUT ROWID;
    """,
    # 6: which menus are heartbeats, and in which language.
    """
    ALTER TABLE replies ADD COLUMN heartbeat TEXT NOT NULL DEFAULT '';
    ALTER TABLE menus ADD COLUMN heartbeat TEXT NOT NULL DEFAULT '';
    """,
    # 7: the file that a reply waits for: what Telegram calls it, its kind, its user's name for it;
    # codes that let somebody in, once;
    # whether a new question ends the answer before it.
    """
    ALTER TABLE replies ADD COLUMN document TEXT NOT NULL DEFAULT '';
    ALTER TABLE replies ADD COLUMN document_kind TEXT NOT NULL DEFAULT '';
    ALTER TABLE replies ADD COLUMN document_name TEXT NOT NULL DEFAULT '';
    CREATE TABLE invitations(
        digest TEXT PRIMARY KEY, admin_id INTEGER NOT NULL, made_at INTEGER NOT NULL)
        WITHOUT ROWID;
    ALTER TABLE preferences ADD COLUMN steering INTEGER NOT NULL DEFAULT 0;
    """,
    # 8: whether a file holds what is to be drawn as a chart; which model users have chosen;
    # several files that a reply waits for; which album a piece is of; pictures, which belong to
    # an ask, and afterwards to its turn, and go with it, whatever deletes that.
    """
    ALTER TABLE files ADD COLUMN is_chart INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE preferences ADD COLUMN model TEXT NOT NULL DEFAULT '';
    CREATE TABLE wanted(
        id INTEGER PRIMARY KEY AUTOINCREMENT, reply_id INTEGER NOT NULL, document TEXT NOT NULL,
        kind TEXT NOT NULL, name TEXT NOT NULL, message_id INTEGER NOT NULL);
    CREATE INDEX wanted_by_reply ON wanted(reply_id);
    INSERT INTO wanted(reply_id, document, kind, name, message_id)
        SELECT replies.id, document, document_kind, document_name, message_id
        FROM replies JOIN asks ON reply_id = replies.id WHERE document != '';
    ALTER TABLE replies DROP COLUMN document;
    ALTER TABLE replies DROP COLUMN document_kind;
    ALTER TABLE replies DROP COLUMN document_name;
    ALTER TABLE pieces ADD COLUMN album TEXT NOT NULL DEFAULT '';
    CREATE TABLE pictures(
        id INTEGER PRIMARY KEY AUTOINCREMENT, ask_id INTEGER NOT NULL, turn_id INTEGER NOT NULL,
        content BLOB NOT NULL);
    CREATE INDEX pictures_of_ask ON pictures(ask_id);
    CREATE INDEX pictures_of_turn ON pictures(turn_id);
    CREATE TRIGGER pictures_go_with_their_turn AFTER DELETE ON turns BEGIN
        DELETE FROM pictures WHERE turn_id = old.id; END;
    CREATE TRIGGER pictures_go_with_their_ask AFTER DELETE ON pieces BEGIN
        DELETE FROM pictures WHERE ask_id = old.ask_id; END;
    """,
    # 9: who has been an admin at any time, so that their menus can be taken back.
    """
    CREATE TABLE admins(user_id INTEGER PRIMARY KEY);
    """,
    # 10: what the turns of each conversation up to one of them come to, and how old the oldest is.
    """
    CREATE TABLE summaries(
        chat_id INTEGER, thread_id INTEGER, text TEXT NOT NULL, until_turn INTEGER NOT NULL,
        since INTEGER NOT NULL, PRIMARY KEY(chat_id, thread_id)) WITHOUT ROWID;
    """,
    # 11: who has how many asks open is counted with each new one.
    """
    CREATE INDEX open_asks ON asks(user_id, state)
        WHERE state IN ('waiting', 'running', 'stopping');
    """,
)
"""Migration n brings a store of version n to version n + 1. Never edit one that was released."""
