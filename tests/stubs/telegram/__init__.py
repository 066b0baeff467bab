"""Owns a stand-in for Telegram's Bot API that tests can trust; knows nothing of the bot under test.

Behaviour and error texts follow the published server (tdlib/telegram-bot-api, TDLib) and, where
that leaves a rule to Telegram's closed side, what users of the hosted service report.
`control.py` documents how a test plays users, injects faults and reads the record.
"""
