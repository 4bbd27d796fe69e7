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

# GB: what .venv takes, and what pip, where it installs, downloads to TMPDIR before it begins
ENVIRONMENT_SIZE=9 DOWNLOAD_SIZE=6

free_space() { df -Pk "$1" | awk 'NR == 2 { print int($4 / 1024 / 1024) }'; }
filesystem() { df -Pk "$1" | awk 'NR == 2 { print $6 }'; }
anything_installed() { compgen -G ".venv/.installed-*" >/dev/null; } # then the large packages are there

still_needed() { # GB in .venv
    local held
    if anything_installed; then
        echo 1
    else
        held=$(du -sk .venv 2>/dev/null | awk '{ print int($1 / 1024 / 1024) }') || true
        echo $((ENVIRONMENT_SIZE - ${held:-0}))
    fi
}

check_space() { # is there room for what is to be installed? It would fail after minutes, and not say where
    has_room "$PWD" "$(still_needed)" "for .venv"
}

check_download_space() { # the same for pip
    local download=$DOWNLOAD_SIZE temporary=${TMPDIR:-/tmp}
    if anything_installed; then download=1; fi
    if [ "$(filesystem .)" = "$(filesystem "$temporary")" ]; then
        has_room "$PWD" $(($(still_needed) + download)) "for .venv and pip's downloads"
    else
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

# By uv (scripts/install.py), or by pip where uv cannot. Both compile: where PYTHONDONTWRITEBYTECODE is set, Python would
# compile all that it imports at every start, more than ten seconds.
install_packages() {
    local pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check) uv_anew="" pip_anew=""
    if ! anything_installed; then pip_anew=--force-reinstall; fi # uv may leave half a package
    if [ -e .venv/.unfinished ]; then uv_anew=--reinstall pip_anew=--force-reinstall; fi # and was interrupted
    touch .venv/.unfinished
    trap 'exit 130' INT # when pip is interrupted, it only ends as if it could not
    if ! "${pip[@]}" --only-binary uv "uv>=0.11" || ! .venv/bin/python scripts/install.py $uv_anew "$@"; then
        echo "uv could not install it, so pip does" >&2
        rm -rf .venv/.uv
        check_download_space && "${pip[@]}" $pip_anew "$@" || return
    fi
    trap - INT
    rm -rf .venv/.uv .venv/.unfinished
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
