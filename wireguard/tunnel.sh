# Owns what sidecar, uplink, health and status agree on about the tunnel's interface, and how they wait and report.
# shellcheck shell=bash
# shellcheck disable=SC2034  # the names are used by the scripts that source this file

# The uplink makes and configures `wg-new` and moves it to the holder, which adopts it as `wg0`. Two names, because a
# dead wg0 may still be there (kernel WireGuard's outlives the uplink) and because no rule lets wg-new through.
readonly new_interface=wg-new interface=wg0

# The same for the interface that leads out of the uplink where a hop carries it: made by `hop`, adopted by the uplink.
readonly new_hop=hop-new hop_interface=wg-hop

# Only the uplink is given the private key.
readonly private_key=/run/secrets/tunnel_private_key preshared_key=/run/secrets/tunnel_preshared_key

# Only the hop is given this one.
readonly hop_private_key=/run/secrets/hop_private_key hop_preshared_key=/run/secrets/hop_preshared_key

# The holder is process 1 of the shared process namespace; everybody may read what interfaces its namespace has.
holder_has() { # INTERFACE
  process_has 1 "$1"
}

process_has() { # PID INTERFACE
  local line
  { while read -r line; do
    [[ $line != "$2:"* ]] || return 0
  done <"/proc/$1/net/dev"; } 2>/dev/null
  return 1
}

# The uplink's first process, from a container that shares its process namespace: the parent of a container's first
# process is outside of it.
find_uplink() { # VARIABLE
  local path parent
  local -a words
  for path in /proc/[0-9]*; do
    mapfile -d '' -t words <"$path/cmdline" || continue
    [[ ${words[1]-} == /usr/local/bin/uplink ]] || continue
    read -r _ _ _ parent _ <"$path/stat" || continue
    [[ $parent == 0 ]] || continue
    printf -v "$1" '%s' "${path##*/}"
    return 0
  done 2>/dev/null
  return 1
}

is_kernel_wireguard() { # INTERFACE
  local line
  [[ -e /sys/class/net/$1/uevent ]] || return 1
  while read -r line; do
    [[ $line != DEVTYPE=wireguard ]] || return 0
  done <"/sys/class/net/$1/uevent"
  return 1
}

# What keeps the two ends in touch beyond WireGuard's own timers, by which an end that has nothing to send takes 120 s
# to notice that the other one has forgotten it (sections 6.1 and 6.5 of WireGuard's paper). Called every few seconds
# where the interface can be controlled: kernel WireGuard where the interface is, userspace where its process is.
tend_tunnel() { # INTERFACE
  ((SECONDS >= ${next_tending:=$((SECONDS + 5))})) || return 0
  next_tending=$((SECONDS + 5))
  keep_handshake "$1"
  case $TUNNEL_END in
    listen) keep_endpoint "$1" ;;
    dial) refresh_when_silent "$1" ;;
  esac
}

# Where the peer was last seen, in the holder's memory, so that it outlives the uplink: a restarted listening end that
# knows it calls back at once. Of several peers, a line each, with its key. Never written to a disk.
readonly last_endpoint=/proc/1/root/run/peer-endpoint

keep_endpoint() { # INTERFACE
  local key endpoint seen=
  while read -r key endpoint; do
    [[ $endpoint != "(none)" ]] || continue
    seen+="$endpoint${TUNNEL_PEERS:+ $key}"$'\n'
    wg set "$1" peer "$key" persistent-keepalive 0 # it was for the first call only: a peer that is off is left in peace
  done < <(wg show "$1" endpoints)
  [[ -z $seen ]] || printf '%s' "$seen" >"$last_endpoint"
}

last_endpoint_of() { # KEY
  local key endpoint
  [[ -s $last_endpoint ]] || return 0
  while read -r endpoint key; do
    [[ $key != "${TUNNEL_PEERS:+$1}" ]] || printf '%s' "$endpoint"
  done <"$last_endpoint"
}

# What the holder tells the members of its namespace: it stands in its memory, too.
readonly last_handshake=/proc/1/root/run/handshake refusals_of_uplink=/proc/1/root/run/uplink-refusals

keep_handshake() { # INTERFACE
  local at newest=0
  while read -r _ at; do
    ((at <= newest)) || newest=$at
  done < <(wg show "$1" latest-handshakes)
  # A new tunnel had none, the old one did.
  ((newest == 0)) || printf 'handshake_at=%s\n' "$newest" | replace "$last_handshake"
}

replace() { # FILE: by what is read, at once
  cat >"$1.new" && mv "$1.new" "$1"
}

# When nothing has come from the peer for half a minute, it is called anew. The log says so once, and once when it is back.
refresh_when_silent() { # INTERFACE
  local received
  read -r _ received _ < <(wg show "$1" transfer) || return 0
  if [[ $received != "${last_received-}" ]]; then
    last_received=$received last_heard=$SECONDS
    [[ -z ${peer_is_silent-} ]] || event peer-heard
    peer_is_silent=
  elif ((SECONDS - last_heard >= 30)); then
    [[ -n ${peer_is_silent-} ]] || event peer-silent seconds=30
    peer_is_silent=yes
    set_peer_anew "$1"
    last_received=0 last_heard=$SECONDS
  fi
}

# As it was, which makes a new handshake. The keys stay within the pipe.
set_peer_anew() { # INTERFACE
  wg showconf "$1" | wg setconf "$1" /dev/stdin
}

# $SECONDS follows the clock, which may be set back by hours; what is done every few seconds must not wait for them.
keep_time() {
  local uptime
  read -r uptime _ </proc/uptime
  SECONDS=${uptime%.*}
}

is_running() { # PID
  [[ -n $1 ]] && kill -0 "$1" 2>/dev/null
}

# Waits on a pipe that never says anything: no process is started, and a signal is heard at once.
pause() { # SECONDS
  [[ -n ${idle-} ]] || exec {idle}<> <(:)
  read -r -t "$1" -u "$idle" || true
}

event() { # ACTION [NAME=VALUE...]: events, never content
  printf 'action=%s\n' "$*"
}
