#!/bin/sh
# Asks systemd whether a unit is well-formed and how much it exposes.
#   check_unit.sh UNIT
# The unit is checked as it is installed, but for the binary, which need not be installed yet.
# Exit status 77 (skipped) where there is no systemd-analyze.
set -eu

unit=$1
most_exposed=10 # tenths; systemd calls up to 1.9 "SAFE"

command -v systemd-analyze >/dev/null || exit 77
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

copy=$folder/$(basename "$unit")
sed 's|^ExecStart=[^ ]*|ExecStart=/bin/true|' "$unit" >"$copy"

# An option that systemd does not know is a line of output and no error.
if ! complaints=$(systemd-analyze verify --man=no "$copy" 2>&1) || [ -n "$complaints" ]; then
  echo "$complaints"
  exit 1
fi
systemd-analyze security --no-pager --offline=true --threshold=$most_exposed "$copy" >"$folder/report" 2>&1 || {
  cat "$folder/report"
  exit 1
}
tail -n 1 "$folder/report"
