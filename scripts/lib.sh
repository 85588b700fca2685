# Sourced by the other scripts: the repository's root, a Python, its environment.
# PYTHON names an interpreter to use as it is, with nothing installed into it.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { echo "$(basename "$0"): $*" >&2; exit 1; }

# Print the first Python on PATH that is new enough.
base_python() {
  local name
  for name in python3 python3.11 python3.12 python3.13 python3.14; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  die "Python 3.11 or newer is missing: apt-get install python3"
}

# Install Debian packages as root, else say what to type. Refreshes the lists once.
apt_install() {
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "$(basename "$0"): missing; install with: sudo apt-get install $*" >&2
    return 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  if [ -z "${apt_updated:-}" ]; then
    apt-get -q update
    apt_updated=1
  fi
  apt-get -q install -y --no-install-recommends "$@"
}

# Install the packages of those commands that are missing, named command:package as
# Debian does; leaves their names in `missing` where that failed.
install_missing() {
  local pair
  PATH=$PATH:/usr/sbin:/sbin
  missing=()
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  [ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"
}

# Unpack programs of Debian packages, named package:path, into .venv/tools: installed,
# the package would start a service. Leaves their names in `missing` where that failed.
unpack_tools() {
  local pair tools=.venv/tools/bin
  missing=()
  mkdir -p "$tools"
  for pair in "$@"; do
    command -v "$(basename "${pair#*:}")" >/dev/null && continue
    [ ! -x "$tools/$(basename "${pair#*:}")" ] || continue
    _unpack "${pair%%:*}" "${pair#*:}" "$tools" || missing+=("${pair%%:*}")
  done
}

_unpack() {
  local package=$1 place
  # package, path in it, directory to put it into
  command -v apt-get >/dev/null || return 1
  place=$(mktemp -d -t typelets-tools-XXXXXX)
  echo "$(basename "$0"): unpacking $package, once ..." >&2
  if ! (cd "$place" && apt-get -qq download "$package" 2>/dev/null) &&
    [ "$(id -u)" = 0 ]; then
    apt-get -qq update
    (cd "$place" && apt-get -qq download "$package")
  fi
  dpkg-deb --fsys-tarfile "$place/$package"_*.deb |
    tar -xC "$place" ".$2" && mv "$place$2" "$3"
  local code=$?
  rm -rf "$place"
  return $code
}

# Make .venv, with nothing in it but pip, unless there is one that works.
make_empty_venv() {
  [ -z "${PYTHON:-}" ] || return 0
  ! { [ -x .venv/bin/pip ] && .venv/bin/pip --version; } >/dev/null 2>&1 || return 0
  local base
  base=$(base_python)
  # Debian's python3 comes without the parts that make environments.
  if ! "$base" -c 'import ensurepip, venv' 2>/dev/null; then
    apt_install python3-venv || die "then run this again"
  fi
  "$base" -m venv --clear .venv
}

# Make .venv with the extras in $1, unless it has them as pyproject.toml is now;
# sets PYTHON.
make_venv() {
  [ -z "${PYTHON:-}" ] || return 0
  local stamp
  stamp=".venv/installed-$1-$(sha256sum <pyproject.toml | cut -c1-16)"
  if ! { [ -e "$stamp" ] && .venv/bin/python -c ''; } 2>/dev/null; then
    make_empty_venv
    echo "$(basename "$0"): installing Python packages into .venv, once ..." >&2
    .venv/bin/pip install --disable-pip-version-check --progress-bar off -e ".[$1]" |
      sed -un 's/^Collecting \([^ ]*\).*/  \1/p; s/^Installing .*/  unpacking .../p' >&2
    rm -f ".venv/installed-$1-"*
    touch "$stamp"
  fi
  PYTHON=$PWD/.venv/bin/python
}
