"""Names the mutants that change nothing, with the reason why nothing can find them, and those that
do not even start, with what must be said then: any other failure to start is a failure of the test.
"""

REPLY_IS_ESTABLISHED = (
    "a packet in the reply direction is always `established`: the kernel gives it no other state "
    "(resolve_normal_ct in net/netfilter/nf_conntrack_core.c); `related` exists in that "
    "direction for ICMP errors alone, and what is invalid has no direction"
)
SADDR_IS_VERSION_4 = (
    "`ip saddr` in the same rule reads IPv4 only, and nft adds the match on the version for it"
)
ALL_SETS_DEFAULT = (
    "writing conf/all/disable_ipv6 also writes conf/default (addrconf_disable_ipv6 in "
    "net/ipv6/addrconf.c)"
)
MODE_SHUTS_GROUP_OUT = "mode=0700 gives the group nothing"

REPLY = "ct direction reply ct state established accept: without `ct state established`"
EQUIVALENT: dict[str, str] = {
    "sidecar-dial: table inet node/chain output: "
    'oifname "wg0" ip saddr $address ip daddr $peer tcp sport $link_port ' + REPLY: (
        REPLY_IS_ESTABLISHED
    ),
    "sidecar-listen: table inet node/chain input: "
    'iifname "wg0" ip saddr $peer ip daddr $address tcp sport $link_port ' + REPLY: (
        REPLY_IS_ESTABLISHED
    ),
    "egress: table inet node/chain input: ip saddr @telegram tcp sport 443 " + REPLY: (
        REPLY_IS_ESTABLISHED
    ),
    "egress: table inet node/chain input: "
    "ip saddr $resolver meta l4proto { tcp, udp } th sport 53 " + REPLY: REPLY_IS_ESTABLISHED,
    "uplink-listen: table inet node/chain input: udp dport $port ip version 4 update @strangers "
    "{ ip saddr limit rate 10/second burst 20 packets } accept: without `ip version 4`": (
        SADDR_IS_VERSION_4
    ),
    **{
        f"{service}: sysctls without net.ipv6.conf.default.disable_ipv6": ALL_SETS_DEFAULT
        for service in (
            *("vps wireguard", "vps uplink", "vps egress", "gpu wireguard", "gpu uplink"),
        )
    },
    "vps relay: tmpfs /tmp without gid=10010": MODE_SHUTS_GROUP_OUT,
    "gpu gateway: tmpfs /tmp without gid=10020": MODE_SHUTS_GROUP_OUT,
    "gpu engine: tmpfs /tmp without gid=10020": MODE_SHUTS_GROUP_OUT,
    "gpu engine: tmpfs /cache without gid=10020": MODE_SHUTS_GROUP_OUT,
}
"""By the ruleset or service with the mutant's name."""

NO_SYSCTLS = "not allowed in host network namespace"
OVERLAP = "conflicting intervals"
AT_START: dict[str, str] = {
    "vps wireguard: network_mode: host": NO_SYSCTLS,
    "gpu wireguard: network_mode: host": NO_SYSCTLS,
    "egress: table inet node/set telegram: no auto-merge": OVERLAP,
    "egress: table netdev node/set telegram: no auto-merge": OVERLAP,
}
"""Part of the reason, by the same names."""
