# The one place that makes .venv: sourced by demo and test, silent when there is nothing to do.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="$ROOT/.venv"
# Installed without its own dependencies: timm would bring torchvision, of which the tests need nothing.
BARE="timm==1.0.31"

# Prints a Python of at least 3.11; $PYTHON names one to be tried first.
find_python() {
  local name
  for name in "${PYTHON:-}" python3.11 python3 python python3.12 python3.13; do
    [ -n "$name" ] || continue
    if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      echo "$name"
      return
    fi
  done
  refuse "no Python that can make the environment" "this machine's PATH" \
    "Python 3.11 or newer with venv and pip" "install one, or name it: PYTHON=/path/to/python3.11 $0"
}

# An error in four parts: what failed, on what, what would have been enough, what to do.
refuse() {
  printf '%s\n  on: %s\n  enough would have been: %s\n  what to do: %s\n' "$@" >&2
  exit 1
}

# What .venv was made from: where it stands and which pins it holds.
wanted_stamp() {
  { echo "$ROOT" "$BARE"; cat "$ROOT/pyproject.toml" "$ROOT/infra/constraints.txt"; } | cksum
}

is_ready() {
  [ -f "$VENV/stamp" ] && [ ! -e "$VENV/unfinished" ] && [ "$(cat "$VENV/stamp")" = "$(wanted_stamp)" ] &&
    "$VENV/bin/python" -c '' 2>/dev/null
}

# A killed installation leaves the mark `unfinished` behind, and is started again from nothing.
install_all() {
  local python
  python="$(find_python)"
  if [ -e "$VENV/unfinished" ] || ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$VENV"
  fi
  mkdir -p "$VENV"
  touch "$VENV/unfinished"
  echo "Making .venv with $("$python" --version): once, a few minutes; the log is .venv/install.log" >&2
  [ -x "$VENV/bin/python" ] || "$python" -m venv "$VENV"
  # torch is named with its pin: a bare name lets pip take another build.
  {
    "$VENV/bin/python" -m pip install --disable-pip-version-check -c "$ROOT/infra/constraints.txt" \
      "$(grep '^torch==' "$ROOT/infra/constraints.txt")" -e "$ROOT[dev]" &&
      "$VENV/bin/python" -m pip install --disable-pip-version-check --no-deps \
        "$BARE"
  } >"$VENV/install.log" 2>&1 || {
    tail -n 15 "$VENV/install.log" >&2
    refuse "pip could not install the pinned packages" "infra/constraints.txt" \
      "a network, or a package index that holds them" "see the lines above, then run the same command again"
  }
  wanted_stamp >"$VENV/stamp"
  rm "$VENV/unfinished"
}

# Returns when .venv is ready; a second caller waits for the first.
make_venv() {
  is_ready && return
  exec 9<"$ROOT/pyproject.toml"
  if command -v flock >/dev/null; then flock 9; fi
  is_ready || install_all
  exec 9<&-
}
