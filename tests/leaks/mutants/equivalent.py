"""Names the mutants that change nothing, with the reason why nothing can find them, and those that
do not even start, with what must be said then: any other failure to start is a failure of the test.
"""

import re

REPLY_IS_ESTABLISHED = (
    "a packet in the reply direction is always `established`: the kernel gives it no other state "
    "(resolve_normal_ct in net/netfilter/nf_conntrack_core.c); `related` exists in that "
    "direction for ICMP errors alone, and what is invalid has no direction"
)
DADDR_IS_VERSION_4 = (
    "`ip daddr` in the same rule reads IPv4 only, and nft adds the match on the version for it"
)
ALL_SETS_DEFAULT = (
    "writing conf/all/disable_ipv6 also writes conf/default (addrconf_disable_ipv6 in "
    "net/ipv6/addrconf.c)"
)
MODE_SHUTS_GROUP_OUT = "mode=0700 gives the group nothing"

EQUIVALENT: tuple[tuple[str, str], ...] = (
    (
        r"(sidecar-dial: .*/chain output|(sidecar-(listen|workers)|egress): .*/chain input): .* "
        r"ct direction reply ct state established accept: without `ct state established`",
        REPLY_IS_ESTABLISHED,
    ),
    (
        r"uplink-listen: .*/chain output: udp sport \$port ip version 4 update @peer\w+ "
        r"\{ ip daddr.*\}: without `ip version 4`",
        DADDR_IS_VERSION_4,
    ),
    (
        r"(vps|gpu) \w+: sysctls without net\.ipv6\.conf\.default\.disable_ipv6",
        ALL_SETS_DEFAULT,
    ),
    (
        r"(vps relay|gpu gateway|gpu engine|first router): tmpfs /\w+ without gid=\d+",
        MODE_SHUTS_GROUP_OUT,
    ),
)
"""A pattern for the ruleset or service with the mutant's name, and the reason."""


def excuse(mutant: str) -> str | None:
    """Why nothing can find a mutant, if that is so."""
    return next((why for pattern, why in EQUIVALENT if re.fullmatch(pattern, mutant)), None)


NO_SYSCTLS = "not allowed in host network namespace"
OVERLAP = "conflicting intervals"
NO_SUCH_CHAIN = "No such file or directory"
AT_START: dict[str, str] = {
    "vps wireguard: network_mode: host": NO_SYSCTLS,
    "gpu wireguard: network_mode: host": NO_SYSCTLS,
    "uplink-listen: table inet node/chain newcomers: removed": NO_SUCH_CHAIN,
    "uplink-listen: table inet node/chain refused: removed": NO_SUCH_CHAIN,
    "egress: table inet node/set telegram: no auto-merge": OVERLAP,
    "egress: table netdev node/set telegram: no auto-merge": OVERLAP,
}
"""Part of the reason, by the same names."""
