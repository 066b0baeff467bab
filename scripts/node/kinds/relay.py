"""The node that is called through the tunnel's one published port, and speaks with Telegram."""

from scripts.node.kinds import Kind

KIND = Kind(
    name="relay",
    file="compose.vps.yml",
    mark="relay",
    dials=False,
    called="TUNNEL_PORT",
    checks=("scripts.doctor.telegram",),
    panels=("scripts.status.telegram",),
)
