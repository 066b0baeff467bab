# Finds a Python that the scripts can run on; those that are named come first. Sourced.
# shellcheck shell=bash

find_python() {
  local name
  for name in "$@" python3.13 python3.12 python3.11 /usr/bin/python3; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  echo "Python 3.11 or newer was not found: install it (\`apt-get install python3\`), then run this again." >&2
  return 1
}
