#!/usr/bin/env bash
# Start the head of a Ray cluster on this machine.
#
#     start_head.sh [options of `ray start`, such as --num-gpus=4 or --dashboard-host=0.0.0.0]
#
# Creates a token if there is none; copy it to every machine before start_worker.sh. See ray.sh.
set -euo pipefail
source "$(dirname -- "$0")/ray.sh"

token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
if [[ -z ${RAY_AUTH_TOKEN:-} && ! -s $token ]]; then
    mkdir -p -- "$(dirname -- "$token")"
    (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$token")
    echo "start_head.sh: created a token, which every node needs: $token" >&2
fi

# The dashboard accepts jobs, so it listens on the loopback interface only.
exec ray start --head "${node_options[@]}" \
    --port="$first" \
    --dashboard-host=127.0.0.1 --dashboard-port=$((first + 7)) \
    --ray-client-server-port=$((first + 8)) \
    "$@"
