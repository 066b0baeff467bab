# Owns loading a ruleset as a whole and telling whether it still stands. The rulesets themselves are the .nft files.
# shellcheck shell=bash

readonly loaded_rules=/run/rules # as the kernel printed them right after loading

load_rules() { # FILE NAME=VALUE...
  local file=$1 definition
  local -a definitions=()
  shift
  for definition; do
    definitions+=(--define "$definition")
  done
  nft "${definitions[@]}" --file "$file"
  standing_rules >"$loaded_rules"
}

# True while exactly the loaded rules are in force, drop policies included. Counters and learnt addresses are left out.
rules_stand() {
  [[ -s $loaded_rules ]] && [[ $(standing_rules) == "$(<"$loaded_rules")" ]]
}

# Only this project's tables: Docker may add tables of its own to a namespace, which can refuse more but allow nothing.
standing_rules() {
  local table
  while read -r table; do
    nft --stateless --terse list "$table"
  done < <(nft list tables | grep -E ' node$')
}

# Every interface with an outside behind it, as an nft set. Docker attaches them before the first process starts.
outside_interfaces() {
  local path names=
  for path in /sys/class/net/*; do
    [[ ${path##*/} == lo || ! -e $path/address || ${path##*/} == wg-new ]] || names+="${names:+, }\"${path##*/}\""
  done
  [[ -n $names ]] || {
    echo "no outside interface: attach this container to a network" >&2
    return 1
  }
  printf '{ %s }' "$names"
}
