# Sourced by the other scripts: make .venv with craft_trainer and the extras named in $1, and activate it.
# PYTHON=/path/to/python chooses the interpreter; otherwise the first Python >= 3.12 that can make environments is used.

usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; }

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3.12 python3.13 python3 python python3.14 \
            "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[2-9]*/bin/python \
            "$HOME"/.local/share/uv/python/cpython-3.1[2-9]*/bin/python3 \
            "$HOME"/{miniconda3,miniforge3,anaconda3,mambaforge}/bin/python \
            "$HOME"/{miniconda3,miniforge3,anaconda3,mambaforge}/envs/*/bin/python \
            /opt/homebrew/bin/python3.1[2-9] /usr/local/bin/python3.1[2-9]
    fi
    for candidate in "$@"; do
        if usable "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    echo "No Python >= 3.12 with the venv module was found${PYTHON:+ at PYTHON=$PYTHON}." >&2
    echo "Install one (Debian/Ubuntu: apt install python3.12-venv; macOS: brew install python@3.12;" >&2
    echo "anywhere: pyenv install 3.12, or uv python install 3.12), or name it: PYTHON=/path/to/python bash $0" >&2
    return 1
}

installed() { # is there a finished installation with at least these extras, of this pyproject.toml?
    local stamp
    for stamp in .venv/.installed-"$1"*; do
        if [ -f "$stamp" ] && [ ! pyproject.toml -nt "$stamp" ]; then return 0; fi
    done
    return 1
}

# GB: what .venv takes, and what pip downloads to TMPDIR before it begins to install
ENVIRONMENT_SIZE=9 DOWNLOAD_SIZE=6

free_space() { df -Pk "$1" | awk 'NR == 2 { print int($4 / 1024 / 1024) }'; }
filesystem() { df -Pk "$1" | awk 'NR == 2 { print $6 }'; }

check_space() { # is there room for what is to be installed? pip says so only after minutes, and not where
    local environment=$ENVIRONMENT_SIZE download=$DOWNLOAD_SIZE temporary=${TMPDIR:-/tmp}
    if compgen -G ".venv/.installed-*" >/dev/null; then environment=1 download=1; fi # the large packages are there
    if [ "$(filesystem .)" = "$(filesystem "$temporary")" ]; then
        has_room "$PWD" $((environment + download)) "for .venv and pip's downloads"
    else
        has_room "$PWD" "$environment" "for .venv" &&
            has_room "$temporary" "$download" "for pip's downloads; TMPDIR=/another/folder chooses where"
    fi
}

has_room() { # folder, GB, what for
    local free
    free=$(free_space "$1")
    if [ "$free" -lt "$2" ]; then
        echo "Not enough disk space in $1: $free GB are free, $2 GB are needed ($3). Free some." >&2
        return 1
    fi
}

pip_setting() { # of the environment or of a file
    .venv/bin/python -m pip config get ":env:.$1" 2>/dev/null ||
        .venv/bin/python -m pip config get "global.$1" 2>/dev/null || true
}

# uv takes a quarter of pip's time for the same packages; where it cannot, pip installs them. Both compile: where
# PYTHONDONTWRITEBYTECODE is set, Python would compile all that it imports at every start, more than ten seconds.
install_packages() {
    local options=(--quiet --python .venv/bin/python --system-certs --compile-bytecode) place
    # uv reads no settings of pip: where packages come from on this machine, of several places the newest
    options+=(--index-strategy unsafe-best-match)
    for place in $(pip_setting index-url); do options+=(--default-index "$place"); done
    for place in $(pip_setting extra-index-url); do options+=(--index "$place"); done
    for place in $(pip_setting find-links); do options+=(--find-links "$place"); done
    # its cache is beside the files that it links there, and goes when they are whole
    if .venv/bin/python -m pip install --quiet --disable-pip-version-check uv &&
        UV_CACHE_DIR="${UV_CACHE_DIR:-.venv/.uv}" .venv/bin/uv pip install "${options[@]}" "$@"; then
        rm -rf .venv/.uv
        return
    fi
    echo "uv could not install it, so pip does" >&2
    rm -rf .venv/.uv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"
}

install_environment() {
    local extras=$1 python
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then # no environment, or one that was never finished
        python=$(find_python)
        echo "Making .venv with $python"
        "$python" -m venv --clear .venv
    fi
    if ! installed "$extras"; then
        check_space || return
        echo "Installing craft_trainer[$extras] into .venv (the first time: 6 to $ENVIRONMENT_SIZE GB, several minutes)"
        install_packages --editable ".[$extras]"
        touch ".venv/.installed-$extras"
    fi
    # shellcheck disable=SC1091
    source .venv/bin/activate
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
install_environment "$1"
