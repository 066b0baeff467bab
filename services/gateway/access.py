"""Who may talk to the bot, and who may let others in."""

import secrets
from dataclasses import dataclass

from services.gateway.store import Store
from services.wire import digest_of

CODE_BYTES = 16


@dataclass(frozen=True)
class Access:
    """The configured lists, and the guests that the store knows; asked in the store's thread."""

    store: Store
    allowed_users: frozenset[int]
    admins: frozenset[int] = frozenset()

    def is_allowed(self, user_id: int) -> bool:
        """Tell whether this user's updates are heard."""
        return user_id in self.allowed_users or self.store.is_guest(user_id)

    def invite(self, admin_id: int) -> str:
        """Make a code that lets somebody in, once; only its digest is kept."""
        code = secrets.token_urlsafe(CODE_BYTES)
        self.store.add_invitation(digest_of(code), admin_id)
        return code

    def admit(self, user_id: int, digest: str) -> int | None:
        """Let in who has the code of this digest; returns who has invited them, if anybody has."""
        admin_id = self.store.use_invitation(digest)
        if admin_id is None or not self.is_admin(admin_id):
            return None
        self.store.add_guest(user_id)
        return admin_id

    def everybody(self) -> list[int]:
        """List all users whose updates are heard, by their ids."""
        return sorted({*self.allowed_users, *self.store.guests()})

    def is_admin(self, user_id: int) -> bool:
        """Tell whether this user may let others in."""
        return user_id in self.admins
