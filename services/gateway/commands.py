"""What the bot's commands do. All of it in the store's thread, within a batch's transaction."""

import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from services.gateway.access import Access
from services.gateway.again import Again
from services.gateway.buttons import forget_buttons
from services.gateway.chart import gather
from services.gateway.effects import (
    Effect,
    Forgotten,
    GuestsChanged,
    Opened,
    Paused,
    Replaced,
    Stopped,
    Withdrawn,
)
from services.gateway.export import write_documents
from services.gateway.heartbeat import heartbeat
from services.gateway.history import estimate_tokens
from services.gateway.limits import Allowance
from services.gateway.menu import Menu
from services.gateway.store import (
    INVITATION_SECONDS,
    Ask,
    Chat,
    Store,
    Usage,
    UsageRow,
    utf16_units,
)
from services.gateway.texts import Language, add_remark, is_visible, language_of, say
from services.wire import Button, Update, invitation_in

FOR_ALL = frozenset(
    {
        "/start", "/help", "/new", "/stop", "/retry",
        "/settings", "/system", "/export", "/forget", "/usage", "/privacy",
    }
)  # fmt: skip
FOR_ADMINS = frozenset(
    {
        "/allow", "/deny", "/invite", "/users", "/status", "/heartbeat", "/broadcast", "/pause",
        "/resume",
    }
)  # fmt: skip

ONLY_SPEAK = frozenset(
    {
        "/start", "/help", "/settings", "/export", "/forget", "/usage", "/privacy", "/users",
        "/status",
    }
)  # fmt: skip
"""These do nothing but say something, so where it would be late they need not be carried out."""

USAGE_DAYS = 30

CHART = "usage.png"

MOST_CAPTION_UNITS = 1024
"""UTF-16 units that Telegram takes below a photo."""

EXPORT = "conversation"
"""What the names of an export's files begin with."""

MOST_BROADCAST_UNITS = 2048

INSTRUCTION_SHARE = 4
"""A user's own words to the model may take this part of a prompt."""


class Commands:
    """Carries out one command and says what the bot replies."""

    def __init__(
        self,
        store: Store,
        access: Access,
        again: Again,
        menu: Menu,
        allowance: Allowance,
        history_days: int,
        describe: Callable[[Language], str],
        has_summaries: bool = False,
    ) -> None:
        """`history_days` 0: conversations are kept until their user forgets them.

        `describe` says how things stand; `has_summaries`: of long ones summaries are made.
        """
        self._has_summaries = has_summaries
        self._store = store
        self._access = access
        self._again = again
        self._menu = menu
        self._allowance = allowance
        self._history_days = history_days
        self._describe = describe
        self.bot_name = ""
        """As links to the bot name it."""

    def knows(self, text: str) -> bool:
        """Tell whether a text is a command that the bot knows."""
        return _name(text) in FOR_ALL | FOR_ADMINS

    def only_speaks(self, text: str) -> bool:
        """Tell whether a command does nothing but say something."""
        return _name(text) in ONLY_SPEAK

    def run(self, update: Update, text: str, language: Language, effects: list[Effect]) -> str:
        """Carry a command out; returns the reply, or nothing where the effects speak."""
        chat = (update.chat_id, update.thread_id)
        name = _name(text)
        if name in FOR_ADMINS:
            if not self._access.is_admin(update.user_id):
                name = ""
            elif update.chat_kind != "private":
                return say("in private", language)
        match name:
            case "/start":
                return say("start", language)
            case "/help":
                is_admin = self._access.is_admin(update.user_id)
                more = "\n\n" + say("help admin", language) if is_admin else ""
                return say("help", language, more=more)
            case "/privacy":
                return self._privacy(update, language)
            case "/new":
                self._store.start_conversation(chat)
                return say("new", language)
            case "/forget":
                self._offer_to_forget(update, language, effects)
                return ""
            case "/stop":
                # Earlier asks only: what comes later in the batch is not in the store yet.
                asks = [ask for ask in self._store.asks(chat) if ask.user_id == update.user_id]
                effects.extend(self.stop(ask) for ask in asks)
                return "" if asks else say("nothing to stop", language)  # the answers say so
            case "/retry":
                return self._again.command(update, language, effects)
            case "/settings" | "/system" if update.chat_kind != "private":
                return say("yours alone", language)
            case "/settings":
                self._menu.open(update, language, effects)
                return ""
            case "/system":
                return self._instruct(update.user_id, text, language)
            case "/export":
                return self._export(chat, language, effects)
            case "/usage":
                return self._usage(update, language, effects)
            case "/users":
                return self._users(language)
            case "/status":
                return self._describe(language)
            case "/heartbeat":
                self._begin_heartbeat(update, language, effects)
                return ""
            case "/broadcast":
                return self._broadcast(update.user_id, text, language, effects)
            case "/pause" | "/resume":
                return self._pause(name == "/pause", language, effects)
            case "/invite":
                return self._invite(update.user_id, language, effects)
            case "/allow" | "/deny":
                return self._admit(name, text, language, effects)
            case _:
                return say("unknown command", language)

    def stop(self, ask: Ask) -> Effect:
        """Stop an ask, whether it waits or is being answered."""
        if ask.state != "waiting":
            self._store.stop_ask(ask.id)
            return Stopped(ask.id)
        said = self._store.said(ask)  # by an earlier process
        return self._withdraw(ask, said.strip() if is_visible(said) else "")

    def interrupt(self, chat: Chat, user_id: int) -> list[Effect]:
        """Stop what is being written for a user; what still waits keeps its turn."""
        return [
            self.stop(ask)
            for ask in self._store.asks(chat)
            if ask.user_id == user_id and ask.state == "running"
        ]

    def _withdraw(self, ask: Ask, said: str = "") -> Effect:
        shown = add_remark(said, say("stopped", ask.language))
        self._store.withdraw_ask(ask, shown, said)
        return Withdrawn(ask, shown)

    def _instruct(self, user_id: int, text: str, language: Language) -> str:
        _, *words = text.split(maxsplit=1)
        if not words:
            chosen = self._store.preferences(user_id).instruction
            return say("instruction", language, text=chosen) if chosen else say("how", language)
        if estimate_tokens(words[0]) > self._allowance.ask_tokens // INSTRUCTION_SHARE:
            return say("too long", language)
        self._menu.instruct(user_id, words[0])
        return say("instructed", language)

    def _offer_to_forget(self, update: Update, language: Language, effects: list[Effect]) -> None:
        chat = (update.chat_id, update.thread_id)
        reply = self._store.add_menu(chat, update.user_id, say("forget", language))
        effects.append(Opened(self._store.set_buttons(reply, *forget_buttons(language))))

    def _begin_heartbeat(self, update: Update, language: Language, effects: list[Effect]) -> None:
        own = [menu for menu in self._store.heartbeats() if menu.user_id == update.user_id]
        if any(not menu.message_id for menu in own):
            return  # one is on its way: it is enough to look at
        for menu in own:
            if menu.reply_id:
                effects.append(Replaced(menu.reply_id))
            ended = self._store.replace_menu(menu, say("no heartbeat", language))
            effects.append(Opened(ended))
        chat = (update.chat_id, update.thread_id)
        text, button = heartbeat(self._describe(language), time.time(), language)
        reply = self._store.add_menu(chat, update.user_id, text, language)
        effects.append(Opened(self._store.set_buttons(reply, button)))

    def press(self, update: Update, language: Language, effects: list[Effect]) -> str:
        """Carry out a press in a menu; returns what its user is told.

        Anybody in a group may press, and anything may be made up: the store knows where a menu
        stands, and whose it is.
        """
        menu = self._store.menu(update.chat_id, update.message_id)
        if menu is None:
            return say("no menu", language)
        if menu.user_id != update.user_id:
            return say("not your menu", language)
        notice = ""
        buttons: list[Button] = []
        match update.press_data.partition(":")[0]:
            case "forget":
                text = self._forget(update, (menu.chat_id, menu.thread_id), language, effects)
            case "heartbeat":
                text = say("no heartbeat", language)
            case "keep":
                text = say("not forgotten", language)
            case _:
                notice, text, buttons = self._menu.press(update.press_data, update, language)
        if text:
            if menu.reply_id:
                effects.append(Replaced(menu.reply_id))
            effects.append(Opened(self._store.replace_menu(menu, text, *buttons)))
        return notice

    def _forget(self, update: Update, chat: Chat, language: Language, effects: list[Effect]) -> str:
        effects.extend(self._withdraw(ask) for ask in self._store.asks(chat))
        self._store.forget_chat(chat)
        self._menu.instruct(update.user_id, "")  # it was said in some chat, perhaps in this one
        effects.append(Forgotten())
        return say("forgotten", language)

    def _export(self, chat: Chat, language: Language, effects: list[Effect]) -> str:
        if self._store.count_files(chat, EXPORT):
            return say("export under way", language)
        summary = self._store.summary(chat)
        documents = list(
            write_documents(self._store.turns(chat), language, summary.text if summary else "")
        )
        for number, document in enumerate(documents, 1):
            caption = say("export", language, number=number, count=len(documents))
            reply = self._store.add_reply(chat, 0, caption, closed=True)
            name = f"{EXPORT}-{number}.md" if len(documents) > 1 else f"{EXPORT}.md"
            effects.append(Opened(self._store.add_file(reply, name, document)))
        return "" if documents else say("nothing to export", language)

    def _privacy(self, update: Update, language: Language) -> str:
        days = self._history_days
        kept = say("kept for days", language, days=days) if days else say("kept", language)
        shared = "" if update.chat_kind == "private" else "\n" + say("shared", language)
        summed = "\n" + say("summed up", language) if self._has_summaries else ""
        return say("privacy", language, kept=kept, shared=shared, summed=summed)

    def _usage(self, update: Update, language: Language, effects: list[Effect]) -> str:
        own = self._own_usage(update.user_id, language)
        if update.chat_kind != "private" or not self._access.is_admin(update.user_id):
            return own
        return self._chart(update, own, language, effects)

    def _own_usage(self, user_id: int, language: Language) -> str:
        rows = self._store.usage(USAGE_DAYS, user_id)
        total = sum((row.usage for row in rows), Usage())
        used = say(
            "usage",
            language,
            days=USAGE_DAYS,
            asks=sum(row.asks for row in rows),
            prompt=total.prompt_tokens,
            answer=total.answer_tokens,
            seconds=round(total.engine_ms / 1000),
        )
        return f"{used}\n{self._allowance.left(user_id, language)}".strip()

    def _chart(self, update: Update, own: str, language: Language, effects: list[Effect]) -> str:
        """Say what an admin has used, below a chart of what everybody has."""
        rows = self._store.usage(USAGE_DAYS)
        chart = gather(
            ((row.user_id, row.day, row.usage.tokens) for row in rows),
            datetime.now(UTC).date(),
            USAGE_DAYS,
        )
        if chart is None:
            return f"{own}\n\n{say('nobody asked', language, days=USAGE_DAYS)}"
        used = _by_user(rows)
        lines = [say("charted", language, days=USAGE_DAYS)]
        for user_id in chart.users:
            asks, tokens = used.pop(user_id)
            lines.append(say("charted user", language, user=user_id, asks=asks, tokens=tokens))
        if chart.others:
            asks, tokens = (sum(numbers) for numbers in zip(*used.values(), strict=True))
            lines.append(
                say("charted others", language, count=chart.others, asks=asks, tokens=tokens)
            )
        caption = f"{own}\n\n" + "\n".join(lines)
        if utf16_units(caption) > MOST_CAPTION_UNITS:
            caption = f"{own}\n\n{lines[0]}"
        reply = self._store.add_reply((update.chat_id, update.thread_id), 0, caption, closed=True)
        reply = self._store.add_file(reply, CHART, chart.to_json(), is_chart=True)
        effects.append(Opened(reply))
        return ""

    def _users(self, language: Language) -> str:
        used = _by_user(self._store.usage(USAGE_DAYS))
        lines = []
        for user_id in self._access.everybody():
            asks, tokens = used.get(user_id, (0, 0))
            role = "admin" if self._access.is_admin(user_id) else "user"
            if user_id not in self._access.allowed_users:
                role = "guest"
            lines.append(
                say(
                    "user",
                    language,
                    user=user_id,
                    role=say(f"role {role}", language),
                    asks=asks,
                    tokens=tokens,
                )
            )
        return say("users", language, days=USAGE_DAYS) + "\n\n" + "\n".join(lines)

    def _broadcast(self, sender: int, text: str, language: Language, effects: list[Effect]) -> str:
        _, *words = text.split(maxsplit=1)
        if not words:
            return say("what to say", language)
        if utf16_units(text) >= MOST_BROADCAST_UNITS:
            return say("too long", language)  # a client may have cut it: the rest would be asked
        readers = [user_id for user_id in self._access.everybody() if user_id != sender]
        effects.extend(
            Opened(self._store.add_reply((user_id, 0), 0, words[0], closed=True))
            for user_id in readers
        )
        return say("broadcast", language, count=len(readers))

    def _pause(self, is_paused: bool, language: Language, effects: list[Effect]) -> str:
        self._store.pause(is_paused)
        effects.append(Paused(is_paused))
        return say("paused for all" if is_paused else "resumed", language)

    def _admit(
        self,
        name: str,
        text: str,
        language: Language,
        effects: list[Effect],
    ) -> str:
        words = text.split()
        if len(words) != 2 or not re.fullmatch(r"[1-9][0-9]{0,15}", words[1]):
            return say("whom", language, command=name)
        user_id = int(words[1])
        if user_id in self._access.allowed_users:
            return say("configured", language)
        if name == "/allow":
            self._store.add_guest(user_id)
            sentence = say("allowed", language, user=user_id)
        elif self._store.remove_guest(user_id):
            sentence = say("denied", language, user=user_id)
        else:
            return say("no guest", language)
        effects.append(self._guests_changed())
        return sentence

    def _guests_changed(self) -> Effect:
        return GuestsChanged(self._store.guests(), self._store.invitations())

    def _invite(self, admin_id: int, language: Language, effects: list[Effect]) -> str:
        if not self.bot_name:
            return say("unknown command", language)  # the relay is of the version before
        code = self._access.invite(admin_id)
        effects.append(self._guests_changed())
        link = f"https://t.me/{self.bot_name}?start={code}"
        return say("invitation", language, link=link, hours=INVITATION_SECONDS // 3600)

    def admit(self, update: Update, effects: list[Effect]) -> bool:
        """Let a stranger in who begins with an invitation's code, and tell who has made it."""
        if update.kind != "message" or update.chat_kind != "private" or update.is_forwarded:
            return False
        admin_id = self._access.admit(update.user_id, invitation_in(update.text or ""))
        if admin_id is None:
            return False
        effects.append(self._guests_changed())
        language = language_of(self._store.preferences(admin_id).language)
        sentence = say("invited", language, user=update.user_id)
        effects.append(Opened(self._store.add_reply((admin_id, 0), 0, sentence, closed=True)))
        return True


def _by_user(rows: Iterable[UsageRow]) -> dict[int, tuple[int, int]]:
    """Sum up each user's asks and tokens."""
    used: dict[int, tuple[int, int]] = {}
    for row in rows:
        asks, tokens = used.get(row.user_id, (0, 0))
        used[row.user_id] = asks + row.asks, tokens + row.usage.tokens
    return used


def _name(text: str) -> str:
    """The command itself: `/help@bot now` is /help."""
    return text.split(maxsplit=1)[0].split("@")[0].lower() if text.startswith("/") else ""
