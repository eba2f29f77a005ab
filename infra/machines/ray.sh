# What every node of a Ray cluster has in common; sourced by start_head.sh and start_worker.sh.
#
# ONTOGENY_RAY_PORTS   the first of 1,000 ports: all that Ray listens on lies among them, so that a
#                      firewall between the machines can open these and nothing else (20000)
# RAY_AUTH_TOKEN_PATH  the file with the token that all nodes and all who connect must have
#                      (~/.ray/auth_token, where Ray looks by itself); RAY_AUTH_TOKEN, if set, is
#                      the token itself

first=${ONTOGENY_RAY_PORTS:-20000}
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
    # Nothing large passes through Ray: workers read weights and write rows by themselves.
    --object-store-memory=$((200 * 1024 * 1024))
)
