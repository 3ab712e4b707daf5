# Shared by the scripts of this folder; sourced, not run.

# The top of the repository.
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# What the scripts fetch or build once and keep: Python environments, test programs.
CACHE=${TIDEGATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidegate}

say() { printf '%s\n' "$*" >&2; }
die() { say "$0: $*"; exit 1; }

# Whether packages can be installed here without asking anyone: Debian (or a child of it), as root.
can_apt() { command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; }

# apt_install PACKAGE…: installs those that are missing; refreshes the lists only when that fails.
apt_install() {
  local missing=() p policy=
  for p in "$@"; do
    dpkg-query -W -f '${db:Status-Abbrev}' "$p" 2>/dev/null | grep -q '^ii' || missing+=("$p")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  can_apt || { say "missing packages: ${missing[*]} (as root on Debian: apt-get install ${missing[*]})"; return 1; }
  say "installing ${missing[*]}"
  # Daemons among the packages (nginx, haproxy) must not start by themselves: the tests start their own.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    policy=/usr/sbin/policy-rc.d
    printf '#!/bin/sh\nexit 101\n' > "$policy" && chmod 755 "$policy"
  fi
  local done=1 get="apt-get install -y -q --no-install-recommends -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300"
  DEBIAN_FRONTEND=noninteractive $get "${missing[@]}" </dev/null >&2 ||
    { apt-get update -q -o DPkg::Lock::Timeout=300 </dev/null >&2 &&
      DEBIAN_FRONTEND=noninteractive $get "${missing[@]}" </dev/null >&2; } || done=0
  [ -n "$policy" ] && rm -f "$policy"
  [ "$done" = 1 ]
}
