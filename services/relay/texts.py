"""The few words that the relay itself puts before users: the menu of commands."""

from aiogram.types import BotCommand

COMMANDS: dict[str | None, list[BotCommand]] = {
    None: [
        BotCommand(command="new", description="Start a new conversation"),
        BotCommand(command="stop", description="Stop the answer"),
        BotCommand(command="help", description="What I can do"),
    ],
    "ru": [
        BotCommand(command="new", description="Начать новый разговор"),
        BotCommand(command="stop", description="Остановить ответ"),
        BotCommand(command="help", description="Что я умею"),
    ],
}
"""By language; None is for all languages that are not listed."""
