# Owns making a WireGuard interface in this namespace, which somebody configures and moves elsewhere, while its encrypted
# socket stays here: by the kernel where it can, by wireguard-go where it cannot.
# shellcheck shell=bash

carrier=   # kernel or userspace
wireguard= # process id of the userspace carrier

open_tunnel() { # INTERFACE
  carrier=kernel
  ip link add "$1" type wireguard 2>/dev/null || {
    carrier=userspace
    open_userspace_tunnel "$1"
  }
}

open_userspace_tunnel() { # INTERFACE
  local control=/run/wireguard/$1.sock attempt
  rm -f "$control"
  # Without a limit its buffers grow to 170 MB under load; with it to 60, at a fifth of a gigabit per second.
  GOMEMLIMIT=32MiB WG_PROCESS_FOREGROUND=1 LOG_LEVEL=error wireguard-go "$1" &
  wireguard=$!
  for ((attempt = 0; attempt < 100; attempt++)); do
    [[ ! -S $control ]] || return 0
    is_running "$wireguard" || return 1
    pause 0.05
  done
  return 1
}

carrier_runs() {
  [[ $carrier == kernel ]] || is_running "$wireguard"
}

close_tunnel() { # INTERFACE
  ! is_running "$wireguard" || kill "$wireguard"
  [[ -z $wireguard ]] || wait "$wireguard" || true
  wireguard=
  [[ ! -e /sys/class/net/$1 ]] || ip link delete "$1" || true
}
