"""Who may talk to the bot, and who may let others in."""

from dataclasses import dataclass

from services.gateway.store import Store


@dataclass(frozen=True)
class Access:
    """The configured lists, and the guests that the store knows; asked in the store's thread."""

    store: Store
    allowed_users: frozenset[int]
    admins: frozenset[int] = frozenset()

    def is_allowed(self, user_id: int) -> bool:
        """Tell whether this user's updates are heard."""
        return user_id in self.allowed_users or self.store.is_guest(user_id)

    def everybody(self) -> list[int]:
        """List all users whose updates are heard, by their ids."""
        return sorted({*self.allowed_users, *self.store.guests()})

    def is_admin(self, user_id: int) -> bool:
        """Tell whether this user may let others in."""
        return user_id in self.admins
