# Owns loading a ruleset as a whole and telling whether it still stands. The rulesets themselves are the .nft files.
# shellcheck shell=bash

readonly loaded_rules=/run/rules    # as the kernel printed them right after loading
readonly fixed_sets=/run/fixed-sets # family, table and name of each, a line a set

load_rules() { # FILE NAME=VALUE...
  local file=$1 definition
  local -a definitions=()
  shift
  for definition; do
    definitions+=(--define "$definition")
  done
  nft "${definitions[@]}" --file "$file" || return # what stood before still stands, and is still what health expects
  find_fixed_sets >"$fixed_sets"
  standing_rules >"$loaded_rules"
}

# True while exactly the loaded rules are in force, drop policies included. Counters and learnt addresses are left out.
rules_stand() {
  [[ -s $loaded_rules ]] && [[ $(standing_rules) == "$(<"$loaded_rules")" ]]
}

# Only this project's tables: Docker may add tables of its own to a namespace, which can refuse more but allow nothing.
# Health asks for this all the time: each call of nft costs it more than all the rest.
standing_rules() {
  local family table name
  nft --stateless --terse list ruleset | awk '$1 == "table" { ours = $3 == "node" } ours'
  while read -r family table name; do
    nft --stateless list set "$family" "$table" "$name"
  done <"$fixed_sets"
}

# The sets that learn nothing: --terse leaves out all members, and a wider set would look the same.
find_fixed_sets() {
  nft --terse list sets | awk '
    $1 == "table" { table = $2 " " $3 }
    $1 == "set" { name = $2; learns = 0 }
    $1 == "flags" && /dynamic/ { learns = 1 }
    $1 == "}" && name { if (!learns && table ~ / node$/) print table, name; name = "" }'
}

# Every ruleset counts what it refuses.
print_refusals() {
  nft list counters table inet node |
    awk '$1 == "counter" { name = $2 } $1 == "packets" { print name "_packets=" $2 }'
}

# Every interface with an outside behind it, as an nft set. Docker attaches them before the first process starts.
outside_interfaces() {
  local path names=
  for path in /sys/class/net/*; do
    ! is_outside "$path" || names+="${names:+, }\"${path##*/}\""
  done
  [[ -n $names ]] || {
    echo "no outside interface: attach this container to a network" >&2
    return 1
  }
  printf '{ %s }' "$names"
}

is_outside() { # /sys/class/net/NAME
  [[ ${1##*/} != lo && ${1##*/} != wg-new && ${1##*/} != hop-new && -e $1/address ]]
}

# Which interfaces those are, by numbers that never come twice; starts no process.
outside_indices() { # VARIABLE
  local path index found=
  for path in /sys/class/net/*; do
    ! is_outside "$path" || ! read -r index <"$path/ifindex" || found+=" $index"
  done 2>/dev/null
  printf -v "$1" '%s' "$found"
}
