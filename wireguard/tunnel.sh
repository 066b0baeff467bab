# Owns what sidecar, uplink, health and status agree on about the tunnel's interface, and how they wait and report.
# shellcheck shell=bash
# shellcheck disable=SC2034  # the names are used by the scripts that source this file

# The uplink makes and configures `wg-new` and moves it to the holder, which adopts it as `wg0`. Two names, because a
# dead wg0 may still be there (kernel WireGuard's outlives the uplink) and because no rule lets wg-new through.
readonly new_interface=wg-new interface=wg0

# Only the uplink is given the private key.
readonly private_key=/run/secrets/tunnel_private_key preshared_key=/run/secrets/tunnel_preshared_key

# The holder is process 1 of the shared process namespace; everybody may read what interfaces its namespace has.
holder_has() { # INTERFACE
  local line
  while read -r line; do
    [[ $line != "$1:"* ]] || return 0
  done </proc/1/net/dev
  return 1
}

is_kernel_wireguard() {
  local line
  [[ -e /sys/class/net/$interface/uevent ]] || return 1
  while read -r line; do
    [[ $line != DEVTYPE=wireguard ]] || return 0
  done <"/sys/class/net/$interface/uevent"
  return 1
}

# Where the peer was last seen, in the holder's memory, so that it outlives the uplink. A restarted listening end that
# knows it can call back at once; the dialling end by itself takes 15 s to miss an answer, and 120 s if it has nothing
# to send (sections 6.1 and 6.5 of WireGuard's paper). Never written to a disk.
readonly last_endpoint=/proc/1/root/run/peer-endpoint

keep_endpoint() { # INTERFACE
  local key endpoint
  read -r key endpoint < <(wg show "$1" endpoints) || return 0
  [[ $endpoint != "(none)" ]] || return 0
  printf '%s\n' "$endpoint" >"$last_endpoint"
  wg set "$1" peer "$key" persistent-keepalive 0 # it was for the first call only: a peer that is off is left in peace
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
