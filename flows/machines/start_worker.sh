#!/usr/bin/env bash
# Join this machine to a Ray cluster as soon as the head of the cluster answers.
#
#     start_worker.sh HEAD:PORT [options of `ray start`, such as --num-gpus=4]
#
# Needs the head's token, see ray.sh. Waits at most ONTOGENY_RAY_WAIT seconds for the head (300).
set -euo pipefail
source "$(dirname -- "$0")/ray.sh"

head=${1:?start_worker.sh: give the address of the head, as in 10.0.0.1:20000}
shift
if [[ ! $head =~ ^[][A-Za-z0-9._:%-]+:[0-9]{1,5}$ ]]; then
    echo "start_worker.sh: expected the address of the head, as in 10.0.0.1:20000" >&2
    exit 2
fi
token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
if [[ -z ${RAY_AUTH_TOKEN:-} && ! -s $token ]]; then
    echo "start_worker.sh: no token in $token: copy it from the head" >&2
    exit 2
fi

wait=$(whole_number ONTOGENY_RAY_WAIT 300)
until=$((SECONDS + wait))
# `ray start` itself gives up after a few seconds, and hosts of one job rarely start together.
until (exec 3<>"/dev/tcp/${head%:*}/${head##*:}") 2>/dev/null; do
    if ((SECONDS >= until)); then
        echo "start_worker.sh: nothing answers at $head: start the head there first" >&2
        exit 1
    fi
    sleep 0.5
done

exec ray start --address="$head" "${node_options[@]}" "$@"
