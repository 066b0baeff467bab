"""Writes what the relay says as the version before would have said it."""

from services.wire import VERSION, Batch, Outcome, PartRecord, Receipt, Receipts

NEW_BATCH_FIELDS = {"bot_name", "strangers", "refused"}
NEW_UPDATE_FIELDS = {"moved_to", "attachment", "reply_to", "quoted", "is_excerpt"}
NEW_UPDATE_FIELDS |= {"is_forwarded", "document_id", "document_name", "document_bytes", "album"}
NEW_PART_FIELDS = {"chat_id"}
NEW_OUTCOME_FIELDS = {"moved_to", "parts"}


def write_batch(batch: Batch, version: int) -> bytes:
    """Write a batch; version 1 knows no groups that move, so those are left out."""
    if version == VERSION:
        return batch.model_dump_json().encode()
    updates = [
        {name: value for name, value in update.items() if name not in NEW_UPDATE_FIELDS}
        for update in batch.updates
        if not _is_news(update)
    ]
    older = batch.model_copy(update={"updates": updates})
    return older.model_dump_json(exclude=NEW_BATCH_FIELDS).encode()


def complete_receipts(batch: Batch, receipts: Receipts) -> Receipts:
    """Give a receipt for each update of the batch, also for those that were left out."""
    if len(receipts.receipts) == len(batch.updates):
        return receipts
    given = iter(receipts.receipts)
    refused = Receipt(update_id=None, outcome="refused")
    return Receipts(
        receipts=[refused if _is_news(u) else next(given, refused) for u in batch.updates]
    )


def write_part(part: PartRecord, version: int) -> bytes:
    """Write which message carries a part."""
    exclude = None if version == VERSION else NEW_PART_FIELDS
    return part.model_dump_json(exclude=exclude).encode()


def write_outcome(outcome: Outcome, version: int) -> bytes:
    """Write how a reply ended; for version 1, one in a chat that has moved can never be shown."""
    if version == VERSION:
        return outcome.model_dump_json().encode()
    if outcome.outcome == "moved":
        outcome = outcome.model_copy(update={"outcome": "undeliverable"})
    return outcome.model_dump_json(exclude=NEW_OUTCOME_FIELDS).encode()


def _is_news(update: dict[str, object]) -> bool:
    return update.get("kind") == "move"
