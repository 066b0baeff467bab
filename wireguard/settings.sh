# Owns the checking of settings: one sentence on stderr for each bad value, naming the setting and the remedy.
# Sourced. Every check notes its refusals; refuse_bad_settings, called last, stops the start if there were any.
# shellcheck shell=bash

bad_settings=0

refuse() { # SENTENCE
  printf '%s\n' "$1" >&2
  bad_settings=$((bad_settings + 1))
}

refuse_bad_settings() {
  ((bad_settings == 0)) || exit 78 # EX_CONFIG of sysexits.h
}

refuse_value() { # NAME REMEDY
  refuse "$1 is \"${!1-}\": $2"
}

require_choice() { # NAME CHOICE...
  local name=$1 choice
  shift
  for choice; do
    [[ ${!name-} != "$choice" ]] || return 0
  done
  refuse_value "$name" "give one of: $*"
}

require_number() { # NAME LOWEST HIGHEST REMEDY
  if [[ ! ${!1-} =~ ^[1-9][0-9]{0,8}$ ]] || ((${!1} < $2 || ${!1} > $3)); then
    refuse_value "$1" "$4"
  fi
}

require_port() { # NAME
  require_number "$1" 1 65535 "give a port between 1 and 65535"
}

is_address() { # TEXT
  local octet='(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
  [[ $1 =~ ^$octet\.$octet\.$octet\.$octet$ ]]
}

# An address that a packet can be sent to: not of this host, not "any", not multicast.
is_destination() { # TEXT
  is_address "$1" && [[ ! $1 =~ ^(0|127|22[4-9]|2[3-5][0-9])\. ]]
}

require_destination() { # NAME REMEDY
  is_destination "${!1-}" || refuse_value "$1" "$2"
}

require_endpoint() { # NAME
  local address=${!1-} port
  port=${address##*:}
  address=${address%:*}
  if ! is_destination "$address" || [[ ! $port =~ ^[1-9][0-9]{0,4}$ ]] || ((port > 65535)); then
    refuse_value "$1" "give the other node's IPv4 address and UDP port, such as 198.51.100.7:51820"
  fi
}

# WireGuard's keys are 32 bytes in base64: 43 characters, the last of which carries four bits, and "=".
is_key() { # TEXT
  [[ $1 =~ ^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$ ]]
}

require_key() { # NAME
  is_key "${!1-}" || refuse_value "$1" "give the other node's public key, 44 characters as \`wg pubkey\` prints them"
}

# The other ends: the one that has its own settings, or the several that a listening end may have instead, as
# TUNNEL_PEERS names them: ADDRESS=KEY, comma separated. Checked; fills peer_addresses and peer_keys.
declare -a peer_addresses=() peer_keys=()

read_peers() {
  local peer
  local -a peers
  peer_addresses=("${TUNNEL_PEER_ADDRESS-}") peer_keys=("${TUNNEL_PEER_KEY-}")
  [[ -n ${TUNNEL_PEERS-} ]] || return 0
  [[ ${TUNNEL_END-} == listen ]] || refuse_value TUNNEL_PEERS "only a listening end has several: leave it empty"
  peer_addresses=() peer_keys=()
  IFS=', ' read -ra peers <<<"$TUNNEL_PEERS"
  for peer in "${peers[@]}"; do
    if ! is_destination "${peer%%=*}" || ! is_key "${peer#*=}" ||
      [[ " ${TUNNEL_ADDRESS-} ${peer_addresses[*]} " == *" ${peer%%=*} "* || " ${peer_keys[*]} " == *" ${peer#*=} "* ]]; then
      refuse_value TUNNEL_PEERS \
        "give each other node's own address inside the tunnel and its public key, such as 10.67.0.2=KEY,10.67.0.3=KEY"
      return 0
    fi
    peer_addresses+=("${peer%%=*}") peer_keys+=("${peer#*=}")
  done
}

# A secret is a file, and its text never reaches a message, an argument or the environment.
require_key_file() { # PATH REMEDY
  local key=
  if [[ ! -f $1 ]]; then
    refuse "$1 is missing: $2"
  elif [[ ! -r $1 ]]; then
    refuse "$1 cannot be read: make root its owner, since root without capabilities reads only its own files"
  else
    read -r key <"$1" || true
    is_key "$key" || refuse "$1 holds no WireGuard key: $2"
  fi
}

require_networks() { # NAME REMEDY: IPv4 networks, comma separated
  local network
  local -a networks
  IFS=', ' read -ra networks <<<"${!1-}"
  ((${#networks[@]})) || refuse_value "$1" "$2"
  for network in "${networks[@]}"; do
    is_network "$network" || {
      refuse_value "$1" "$2"
      return 0
    }
  done
}

# Wider than /8 would be the internet rather than somebody's networks.
is_network() { # TEXT
  local address=${1%/*} length=${1##*/}
  is_destination "$address" && [[ $length =~ ^([89]|[12][0-9]|3[0-2])$ && $1 == */* ]]
}

is_within() { # ADDRESS NETWORKS: both checked before
  local network length
  local -a networks
  IFS=', ' read -ra networks <<<"$2"
  for network in "${networks[@]}"; do
    is_network "$network" || continue
    length=${network##*/}
    (($(number_of "$1") >> (32 - length) != $(number_of "${network%/*}") >> (32 - length))) || return 0
  done
  return 1
}

number_of() { # ADDRESS
  local -a octets
  IFS=. read -ra octets <<<"$1"
  printf '%d' $((octets[0] << 24 | octets[1] << 16 | octets[2] << 8 | octets[3]))
}

# Compose silently ignores a misspelt name in .env, and its default would stand; so every name must be a known one.
require_known_names() { # ENV EXAMPLE
  local name
  [[ -f $1 && -f $2 ]] || return 0
  [[ -r $1 && -r $2 ]] || {
    refuse ".env cannot be read: make root its owner, since root without capabilities reads only its own files"
    return 0
  }
  while read -r name; do
    [[ $name =~ ^(COMPOSE|DOCKER|BUILDKIT)_ ]] || grep -Eq "^#? ?${name}=" "$2" ||
      refuse "unknown setting ${name} in .env: remove it, or take its right name from .env.example"
  done < <(sed -En 's/^[[:space:]]*(export[[:space:]]+)?([A-Za-z_][A-Za-z0-9_]*)[[:space:]]*=.*/\2/p' "$1")
}
