"""The few words that the relay itself puts before users, when the gateway cannot."""

from typing import Literal

from aiogram.types import BotCommand

COMMANDS: dict[str | None, list[BotCommand]] = {
    None: [
        BotCommand(command="new", description="Start a new conversation"),
        BotCommand(command="stop", description="Stop the answer"),
        BotCommand(command="retry", description="Answer once more"),
        BotCommand(command="settings", description="How I answer"),
        BotCommand(command="export", description="Our conversation, as a file"),
        BotCommand(command="usage", description="How much you have used"),
        BotCommand(command="privacy", description="What is stored, and for how long"),
        BotCommand(command="forget", description="Erase our conversation"),
        BotCommand(command="help", description="What I can do"),
    ],
    "ru": [
        BotCommand(command="new", description="Начать новый разговор"),
        BotCommand(command="stop", description="Остановить ответ"),
        BotCommand(command="retry", description="Ответить ещё раз"),
        BotCommand(command="settings", description="Как я отвечаю"),
        BotCommand(command="export", description="Наш разговор файлом"),
        BotCommand(command="usage", description="Сколько вы израсходовали"),
        BotCommand(command="privacy", description="Что хранится и как долго"),
        BotCommand(command="forget", description="Стереть наш разговор"),
        BotCommand(command="help", description="Что я умею"),
    ],
}
"""By language; None is for all languages that are not listed."""

_SENTENCES = {
    "asleep": {
        "en": (
            "I am asleep right now. I will answer when I wake up, within 24 hours; "
            "there is no need to write again."
        ),
        "ru": (
            "Сейчас я сплю. Я отвечу, когда проснусь, в течение 24 часов; "
            "писать ещё раз не нужно."
        ),
    },
    "still asleep": {
        "en": (
            "I am still asleep, and a message can wait for 24 hours at most. What you wrote "
            "20 hours ago will be lost in about 4 hours if I do not wake up: please send it "
            "again then."
        ),
        "ru": (
            "Я всё ещё сплю, а сообщение может ждать не дольше 24 часов. Написанное 20 часов "
            "назад пропадёт примерно через 4 часа, если я не проснусь: тогда, пожалуйста, "
            "пришлите его ещё раз."
        ),
    },
    "press later": {
        "en": "I am asleep right now. Please press again later.",
        "ru": "Сейчас я сплю. Нажмите, пожалуйста, ещё раз позже.",
    },
}  # fmt: skip


def say(sentence: Literal["asleep", "still asleep", "press later"], language: str) -> str:
    """Say it in the language of this IETF tag, or in English."""
    return _SENTENCES[sentence]["ru" if language.lower().split("-")[0] == "ru" else "en"]
