# Settings of every node of a Ray cluster; sourced by start_head.sh and start_worker.sh.
#
# ONTOGENY_RAY_PORTS   the first of the 1,000 ports that Ray listens on; a firewall between the machines
#                      needs to open only these (default: 20000)
# RAY_AUTH_TOKEN_PATH  the file with the token that nodes and clients must present (default:
#                      ~/.ray/auth_token, as in Ray); RAY_AUTH_TOKEN, if set, is the token itself

# Print a variable that must be a whole number, or its default. Bash would run code within another
# value where it calculates with it; it takes 010 for 8.
whole_number() {
    local value=${!1:-$2}
    if [[ ! $value =~ ^(0|[1-9][0-9]{0,8})$ ]]; then
        echo "$1 is no whole number: set one, such as $2" >&2
        return 2
    fi
    echo "$value"
}

first=$(whole_number ONTOGENY_RAY_PORTS 20000)
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

node_options=(
    --node-manager-port=$((first + 1))
    --object-manager-port=$((first + 2))
    --runtime-env-agent-port=$((first + 3))
    --dashboard-agent-grpc-port=$((first + 4))
    --dashboard-agent-listen-port=$((first + 5))
    --metrics-export-port=$((first + 6))
    --min-worker-port=$((first + 20))
    --max-worker-port=$((first + 999))
    # Ray's default is 30% of the memory, which the models need: nothing large passes through Ray,
    # as workers read weights and write rows themselves.
    --object-store-memory=$((200 * 1024 * 1024))
)
