"""Every sentence that the bot says, in the user's language: the relay knows none of them."""

import re
import unicodedata
from typing import Literal

Language = Literal["en", "ru"]

_TEXTS: dict[str, dict[Language, str]] = {
    "start": {
        "en": "Hello! Write to me, and I will answer. /help shows what else I can do.",
        "ru": "Здравствуйте! Напишите мне, и я отвечу. /help покажет, что ещё я умею.",
    },
    "help": {
        "en": (
            "Write a message and I will answer it; I remember our conversation.\n\n"
            "/new — start a new conversation and forget this one\n"
            "/stop — stop the answer that is being written\n"
            "/retry — answer the last question once more\n"
            "/settings — how I answer: language, style, length\n"
            "/system WORDS — what I should keep in mind with every answer\n"
            "/forget — erase our conversation for good\n"
            "/export — our conversation, as a file\n"
            "/usage — how much you have used\n"
            "/privacy — what is stored, and for how long\n"
            "/help — this text{more}"
        ),
        "ru": (
            "Напишите сообщение, и я отвечу; я помню наш разговор.\n\n"
            "/new — начать новый разговор и забыть этот\n"
            "/stop — остановить ответ, который пишется\n"
            "/retry — ответить на последний вопрос ещё раз\n"
            "/settings — как я отвечаю: язык, стиль, длина\n"
            "/system СЛОВА — о чём мне помнить в каждом ответе\n"
            "/forget — стереть наш разговор навсегда\n"
            "/export — наш разговор файлом\n"
            "/usage — сколько вы израсходовали\n"
            "/privacy — что хранится и как долго\n"
            "/help — этот текст{more}"
        ),
    },
    "help admin": {
        "en": (
            "\n\nFor admins:\n"
            "/allow NUMBER — let the user with this number talk to me\n"
            "/deny NUMBER — let them in no more\n"
            "/users — who may talk to me, and how much they have used\n"
            "/status — how things stand\n"
            "/heartbeat — the same, renewed every few minutes for as long as I live\n"
            "/broadcast WORDS — tell all users something\n"
            "/pause, /resume — let questions wait, and answer them again"
        ),
        "ru": (
            "\n\nДля администраторов:\n"
            "/allow НОМЕР — разрешить пользователю с этим номером говорить со мной\n"
            "/deny НОМЕР — больше не разрешать\n"
            "/users — кто может говорить со мной и сколько израсходовал\n"
            "/status — как обстоят дела\n"
            "/heartbeat — то же, с обновлением каждые несколько минут, пока я жив\n"
            "/broadcast СЛОВА — сказать что-то всем\n"
            "/pause, /resume — пусть вопросы ждут; снова отвечать"
        ),
    },
    "privacy": {
        "en": (
            "Who sees what you write:\n"
            "• Telegram carries every message and keeps it in this chat: bots have no secret "
            "chats. To remove it there, delete the chat.\n"
            "• On its way from Telegram to me a message is stored nowhere else.\n"
            "• I keep our conversation, encrypted, so that I remember it: {kept}. It is used for "
            "answering you here and for nothing else.\n"
            "• I keep what you have chosen in /settings and told me with /system.\n"
            "• For each day I count your questions and their length, never their words.\n"
            "• Those who run this bot hold the key; nobody else does.{shared}\n\n"
            "/new makes me forget this conversation. /forget erases it and the words "
            "of /system, on the disk as well."
        ),
        "ru": (
            "Кто видит то, что вы пишете:\n"
            "• Telegram передаёт каждое сообщение и хранит его в этом чате: секретных чатов "
            "с ботами нет. Чтобы удалить его там, удалите чат.\n"
            "• По пути от Telegram ко мне сообщение больше нигде не сохраняется.\n"
            "• Наш разговор я храню в зашифрованном виде, чтобы помнить его: {kept}. Он служит "
            "только для ответов вам здесь.\n"
            "• Я храню то, что вы выбрали в /settings и сказали в /system.\n"
            "• По дням я считаю ваши вопросы и их длину, но не слова.\n"
            "• Ключ есть у тех, кто держит этого бота, и больше ни у кого.{shared}\n\n"
            "/new — я забуду этот разговор. /forget — сотру его и слова из /system, "
            "на диске тоже."
        ),
    },
    "kept": {
        "en": "until you erase it",
        "ru": "пока вы его не сотрёте",
    },
    "kept for days": {
        "en": "for {days} days",
        "ru": "дней: {days}",
    },
    "shared": {
        "en": (
            "\n• In a group, all members share one conversation: my answers to one of them may "
            "draw on what another has asked me here. For what is yours alone, write to me alone."
        ),
        "ru": (
            "\n• В группе разговор общий: то, о чём меня здесь спросил один, может отразиться "
            "в ответах другим. Личное пишите мне в личный чат."
        ),
    },
    "settings": {"en": "Settings", "ru": "Настройки"},
    "language": {"en": "Language", "ru": "Язык"},
    "choose language": {
        "en": "Which language shall I use for my own sentences?",
        "ru": "На каком языке мне говорить от себя?",
    },
    "language default": {"en": "as in Telegram", "ru": "как в Telegram"},
    "language en": {"en": "English", "ru": "English"},
    "language ru": {"en": "Русский", "ru": "Русский"},
    "persona": {"en": "Character", "ru": "Роль"},
    "choose persona": {
        "en": "Who shall I be when I answer you?",
        "ru": "Кем мне быть, когда я отвечаю вам?",
    },
    "persona default": {"en": "usual", "ru": "обычная"},
    "style": {"en": "Style", "ru": "Стиль"},
    "choose style": {
        "en": "How freely shall I choose my words?",
        "ru": "Насколько свободно мне выбирать слова?",
    },
    "style default": {"en": "balanced", "ru": "сбалансированный"},
    "style precise": {"en": "precise", "ru": "точный"},
    "style creative": {"en": "creative", "ru": "творческий"},
    "length": {"en": "Length", "ru": "Длина"},
    "choose length": {
        "en": "How long shall my answers be?",
        "ru": "Какой длины должны быть ответы?",
    },
    "length default": {"en": "as it comes", "ru": "как получится"},
    "length short": {"en": "short", "ru": "коротко"},
    "length long": {"en": "in detail", "ru": "подробно"},
    "streaming": {"en": "While I write", "ru": "Пока я пишу"},
    "choose streaming": {
        "en": "Shall an answer be shown while I write it, or only when it is complete?",
        "ru": "Показывать ответ, пока я его пишу, или только готовым?",
    },
    "streaming on": {"en": "show the answer", "ru": "показывать ответ"},
    "streaming off": {"en": "show nothing", "ru": "не показывать"},
    "reasoning": {"en": "My thoughts", "ru": "Мои мысли"},
    "choose reasoning": {
        "en": "If I think before I answer, shall my thoughts stand above the answer?",
        "ru": "Если я думаю перед ответом, показывать мысли над ответом?",
    },
    "reasoning on": {"en": "shown", "ru": "показывать"},
    "reasoning off": {"en": "kept to myself", "ru": "не показывать"},
    "back": {"en": "Back", "ru": "Назад"},
    "done": {"en": "Done", "ru": "Готово"},
    "saved": {"en": "Saved.", "ru": "Сохранено."},
    "not your menu": {
        "en": "I have asked somebody else.",
        "ru": "Этот вопрос не вам.",
    },
    "no menu": {
        "en": "This does not work any more. Please give the command again.",
        "ru": "Это больше не действует. Дайте, пожалуйста, команду ещё раз.",
    },
    "yours alone": {
        "en": "Your settings are nobody else's business: please say that in our private chat.",
        "ru": "Ваши настройки никого больше не касаются: скажите это, пожалуйста, в личном чате.",
    },
    "instruction": {
        "en": "What I always keep in mind for you: {text}",
        "ru": "Что я всегда помню для вас: {text}",
    },
    "instructed": {
        "en": "I will keep that in mind with every answer. /settings can remove it.",
        "ru": "Буду помнить об этом в каждом ответе. Убрать можно в /settings.",
    },
    "how": {
        "en": "Say after /system what I should keep in mind with every answer to you.",
        "ru": "Напишите после /system, о чём мне помнить в каждом ответе вам.",
    },
    "no instruction": {"en": "Keep nothing in mind", "ru": "Ничего не помнить"},
    "new": {
        "en": "A new conversation: I have forgotten the earlier one.",
        "ru": "Новый разговор: прежний я забыл.",
    },
    "forget": {
        "en": "Shall I erase all that we said here? It cannot be brought back.",
        "ru": "Стереть всё, о чём мы здесь говорили? Вернуть это будет нельзя.",
    },
    "erase": {"en": "Erase it", "ru": "Стереть"},
    "keep": {"en": "Keep it", "ru": "Оставить"},
    "not forgotten": {
        "en": "I have erased nothing.",
        "ru": "Я ничего не стёр.",
    },
    "forgotten": {
        "en": "I have erased all that we said here. Delete the chat in Telegram, too.",
        "ru": "Я стёр всё, о чём мы здесь говорили. Удалите чат и в самом Telegram.",
    },
    "export": {
        "en": "Our conversation, as I remember it ({number} of {count}).",
        "ru": "Наш разговор, каким я его помню ({number} из {count}).",
    },
    "as a file": {
        "en": "The same answer, as a file.",
        "ru": "Тот же ответ файлом.",
    },
    "you": {"en": "You", "ru": "Вы"},
    "me": {"en": "I", "ru": "Я"},
    "nothing to export": {
        "en": "There is no conversation here yet.",
        "ru": "Здесь ещё не было разговора.",
    },
    "export under way": {
        "en": "The file is on its way already.",
        "ru": "Файл уже отправляется.",
    },
    "usage": {
        "en": (
            "In the last {days} days: questions {asks}, tokens read {prompt}, "
            "tokens written {answer}, time {seconds} s."
        ),
        "ru": (
            "За последние дни ({days}): вопросов {asks}, прочитано токенов {prompt}, "
            "написано токенов {answer}, время {seconds} с."
        ),
    },
    "left": {
        "en": "Left today: {what}. The next day begins in {hours} h {minutes} min.",
        "ru": "На сегодня осталось: {what}. Новый день начнётся через {hours} ч {minutes} мин.",
    },
    "asks left": {"en": "questions {count}", "ru": "вопросов {count}"},
    "tokens left": {"en": "tokens {count}", "ru": "токенов {count}"},
    "whom": {
        "en": "Say whom: {command} and the number that Telegram gives the user.",
        "ru": "Укажите кого: {command} и номер пользователя в Telegram.",
    },
    "allowed": {
        "en": "User {user} may talk to me now.",
        "ru": "Пользователь {user} теперь может со мной говорить.",
    },
    "denied": {
        "en": "User {user} may not talk to me any more.",
        "ru": "Пользователь {user} больше не может со мной говорить.",
    },
    "no guest": {
        "en": "This user was not let in by an admin.",
        "ru": "Этого пользователя никто не впускал.",
    },
    "configured": {
        "en": "This user stands in the configuration: change it there.",
        "ru": "Этот пользователь указан в настройках: измените их.",
    },
    "in private": {
        "en": "Admins' commands work in a private chat with me only.",
        "ru": "Команды администраторов действуют только в личном чате со мной.",
    },
    "users": {"en": "Users, last {days} days:", "ru": "Пользователи за последние дни ({days}):"},
    "user": {
        "en": "{user} ({role}): questions {asks}, tokens {tokens}",
        "ru": "{user} ({role}): вопросов {asks}, токенов {tokens}",
    },
    "role admin": {"en": "admin", "ru": "администратор"},
    "role user": {"en": "in the configuration", "ru": "в настройках"},
    "role guest": {"en": "let in by an admin", "ru": "впущен администратором"},
    "what to say": {
        "en": "Write after /broadcast what all users shall be told.",
        "ru": "Напишите после /broadcast, что сказать всем.",
    },
    "broadcast": {
        "en": "It goes out to {count} users.",
        "ru": "Отправляется, получателей: {count}.",
    },
    "paused": {
        "en": "I am taking a break. Your message is kept and will be answered.",
        "ru": "У меня перерыв. Ваше сообщение сохранено, ответ будет.",
    },
    "paused for all": {
        "en": "Questions wait until /resume.",
        "ru": "Вопросы ждут до /resume.",
    },
    "heartbeat": {
        "en": (
            "Alive at {now}. I renew this every {minutes} minutes: if it is much older than that, "
            "I am cut off or down.\n\n{state}"
        ),
        "ru": (
            "На связи в {now}. Я обновляю это сообщение каждые {minutes} минут: если оно намного "
            "старше, связи нет или я не работаю.\n\n{state}"
        ),
    },
    "no heartbeat": {
        "en": "Not renewed any more. /heartbeat begins anew.",
        "ru": "Больше не обновляется. /heartbeat — начать снова.",
    },
    "end heartbeat": {"en": "Renew no more", "ru": "Больше не обновлять"},
    "resumed": {"en": "Questions are answered again.", "ru": "На вопросы снова отвечаю."},
    "relay good": {"en": "Telegram: connected", "ru": "Telegram: есть связь"},
    "relay bad": {
        "en": "Telegram: out of reach since {since} (now {now})",
        "ru": "Telegram: связи нет с {since} (сейчас {now})",
    },
    "engine good": {"en": "Engine: ready", "ru": "Движок: готов"},
    "engine bad": {
        "en": "Engine: not ready since {since} (now {now})",
        "ru": "Движок: не готов с {since} (сейчас {now})",
    },
    "load": {
        "en": "Questions: {running} being answered, {waiting} waiting; {speed} tokens/s",
        "ru": "Вопросы: отвечаю на {running}, ждут {waiting}; токенов/с: {speed}",
    },
    "space": {
        "en": "Disk: {free} of {total} GB free",
        "ru": "Диск: свободно {free} из {total} ГБ",
    },
    "engine down": {
        "en": "The engine has not been ready since {since}. Questions wait.",
        "ru": "Движок не готов с {since}. Вопросы ждут.",
    },
    "engine back": {
        "en": "The engine is ready again; it was not from {since} to {now}.",
        "ru": "Движок снова готов; не был с {since} до {now}.",
    },
    "relay back": {
        "en": "I could not reach Telegram from {since} to {now}.",
        "ru": "У меня не было связи с Telegram с {since} до {now}.",
    },
    "disk down": {
        "en": "The disk is nearly full. When it is, no more questions can be taken.",
        "ru": "Диск почти полон. Когда он заполнится, я не смогу принимать вопросы.",
    },
    "disk back": {
        "en": "The disk has room again.",
        "ru": "На диске снова есть место.",
    },
    "nothing to stop": {
        "en": "There is nothing to stop.",
        "ru": "Останавливать нечего.",
    },
    "stop": {"en": "Stop", "ru": "Стоп"},
    "stopped": {"en": "(stopped)", "ru": "(остановлено)"},
    "stopping": {"en": "Stopping.", "ru": "Останавливаю."},
    "too late": {"en": "It is finished already.", "ru": "Ответ уже готов."},
    "unknown command": {
        "en": "I do not know this command. /help shows those that I know.",
        "ru": "Я не знаю такой команды. /help покажет те, что знаю.",
    },
    "only text": {
        "en": "I can read text only so far.",
        "ru": "Пока я понимаю только текст.",
    },
    "cannot see": {
        "en": "I cannot see pictures. Tell me in words what it shows, and I will gladly help.",
        "ru": "Я не вижу картинок. Опишите её словами, и я охотно помогу.",
    },
    "cannot hear": {
        "en": "I cannot hear recordings. Please write it to me.",
        "ru": "Я не слышу записей. Напишите, пожалуйста, текстом.",
    },
    "cannot open": {
        "en": "I cannot open files. Please send me their text as a message.",
        "ru": "Я не открываю файлы. Пришлите, пожалуйста, их текст сообщением.",
    },
    "too long": {
        "en": "This message is too long for me. Please send it in shorter pieces.",
        "ru": "Это сообщение слишком длинное для меня. Пришлите его по частям.",
    },
    "too many": {
        "en": "You have {count} messages waiting for an answer. Please wait for one of them.",
        "ru": "Ваших сообщений, ждущих ответа: {count}. Дождитесь, пожалуйста, одного из них.",
    },
    "busy": {
        "en": "Too many people are asking right now. Please try again in a few minutes.",
        "ru": "Сейчас слишком много вопросов. Попробуйте ещё раз через несколько минут.",
    },
    "daily asks": {
        "en": (
            "You have had the {count} answers of today. "
            "The next day begins in {hours} h {minutes} min, at midnight UTC."
        ),
        "ru": (
            "Ответы на сегодня кончились, их было {count}. "
            "Новый день начнётся через {hours} ч {minutes} мин, в полночь по UTC."
        ),
    },
    "daily tokens": {
        "en": (
            "You have used the {count} tokens of today. "
            "The next day begins in {hours} h {minutes} min, at midnight UTC."
        ),
        "ru": (
            "Токены на сегодня кончились, их было {count}. "
            "Новый день начнётся через {hours} ч {minutes} мин, в полночь по UTC."
        ),
    },
    "too fast": {
        "en": "That is more than {count} messages in a minute. Please wait a moment.",
        "ru": "Это больше {count} сообщений за минуту. Подождите, пожалуйста, немного.",
    },
    "queued": {
        "en": "Waiting: {ahead} ahead of you, about {seconds} s.",
        "ru": "В очереди перед вами: {ahead}, примерно {seconds} с.",
    },
    "waking": {
        "en": "I am just waking up. Your message is kept and will be answered.",
        "ru": "Я просыпаюсь. Ваше сообщение сохранено, ответ будет.",
    },
    "failed": {
        "en": "I could not finish this answer.",
        "ru": "Мне не удалось закончить ответ.",
    },
    "retry": {"en": "Try again", "ru": "Ещё раз"},
    "retrying": {"en": "Trying again.", "ru": "Пробую ещё раз."},
    "again": {"en": "Another answer", "ru": "Другой ответ"},
    "more": {"en": "Continue", "ru": "Продолжить"},
    "going on": {"en": "Going on.", "ru": "Продолжаю."},
    "not the latest": {
        "en": "Only my latest answer here can be changed, and by who asked for it.",
        "ru": "Изменить можно только мой последний ответ здесь, и только тому, кто спросил.",
    },
    "still answering": {
        "en": "I am still answering here. Please try again afterwards.",
        "ru": "Я ещё отвечаю здесь. Повторите, пожалуйста, потом.",
    },
    "one moment": {
        "en": "One moment: please press again.",
        "ru": "Секунду: нажмите, пожалуйста, ещё раз.",
    },
    "nothing to retry": {
        "en": "There is no answer of mine to your question here that I could change.",
        "ru": "Здесь нет моего ответа на ваш вопрос, который можно было бы изменить.",
    },
    "thinking": {"en": "Thinking…", "ru": "Думаю…"},
    "only thought": {
        "en": "(I thought until there was no room left for an answer)",
        "ru": "(я думал, пока не кончилось место для ответа)",
    },
    "empty": {"en": "(no answer)", "ru": "(нет ответа)"},
}


def is_visible(text: str) -> bool:
    """Tell whether a reader would see anything: not only spaces, controls and joiners."""
    return any(unicodedata.category(character)[0] not in "CZ" for character in text)


def add_remark(said: str, remark: str) -> str:
    """End an answer with a sentence of ours, which a code block that was cut must not swallow."""
    if said and remark and (fence := _open_fence(said)):
        said = f"{said}\n{fence}"
    return f"{said}\n\n{remark}".strip()


def quote(text: str) -> str:
    """Write a text as a quote in Markdown."""
    return "> " + text.strip().replace("\n", "\n> ")


def _open_fence(text: str) -> str:
    """Find what closes the code block at the end of a text; nothing if none is open.

    The relay reads the same lines in the same way. A block in a quote ends with the quote.
    """
    fence, is_quoted = "", False
    for line in text.split("\n"):
        bare = _UNSEEN.sub("", line).expandtabs(4).strip(" ")
        if fence and (bare.startswith(">") or not is_quoted):
            if is_quoted:
                bare = bare.lstrip("> ")
            if bare.startswith(fence) and not bare.strip(fence[0]):
                fence = ""
        else:
            found = _FENCE.match(bare)
            fence, is_quoted = (found[1] if found else ""), bare.startswith(">")
    return "" if is_quoted else fence


_FENCE = re.compile(r"[> ]*(?:(?:[-*+]|\d{1,9}[.)]) +)?(`{3,}(?=[^`]*$)|~{3,})")
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e]")


def language_of(tag: str) -> Language:
    """Choose the language for a user whose client reports this IETF tag."""
    return "ru" if tag.lower().split("-")[0] == "ru" else "en"


def say(key: str, language: Language, **values: int | str) -> str:
    """Render a sentence. Raises KeyError for an unknown key."""
    return _TEXTS[key][language].format(**values)
