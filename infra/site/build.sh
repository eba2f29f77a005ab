#!/usr/bin/env bash
# Bundle plot.js, list.js and site.js into pipeline/report/site/assets, with the licences of what is
# bundled. The versions are those of package-lock.json.
set -euo pipefail
cd "$(dirname "$0")"
assets=../../pipeline/report/site/assets

metafiles=$(mktemp -d)
trap 'rm -rf "$metafiles"' EXIT
npm ci --ignore-scripts --no-audit --no-fund --silent
esbuild=node_modules/.bin/esbuild
for library in plot list; do
    "$esbuild" "src/$library.js" --bundle --minify --format=iife --target=es2022 --charset=utf8 \
        --legal-comments=none --metafile="$metafiles/$library.json" --log-level=warning \
        --banner:js="/* Bundled third-party code; see LICENSES.txt. Built by infra/site/build.sh. */" \
        --outfile="$assets/$library.js"
done
"$esbuild" src/site/main.js --bundle --format=iife --target=es2022 --charset=utf8 \
    --log-level=warning --banner:js="/* Built by infra/site/build.sh from infra/site/src/site. */" \
    --outfile="$assets/site.js"
node licenses.mjs "$metafiles/plot.json" "$metafiles/list.json" > "$assets/LICENSES.txt"
