#!/bin/sh
# Builds the addon (when its sources are newer than it), the TypeScript into dist/, and the bundles of it.
#
#   sh lab/setup/build.sh
set -eu
cd "$(dirname "$0")/../.."

addon=build/Release/frameio.node
newer=''
if [ -e $addon ]; then newer=$(find addon binding.gyp -newer $addon -type f | head -n 1); fi
if [ ! -e $addon ] || [ -n "$newer" ]; then
  if [ -z "${npm_config_nodedir:-}" ]; then
    prefix=$(node -p 'require("node:path").resolve(process.execPath, "../..")')
    [ -e "$prefix/include/node/node_api.h" ] && npm_config_nodedir=$prefix
    export npm_config_nodedir npm_package_config_node_gyp_nodedir="${npm_config_nodedir:-}"
  fi
  log=$(mktemp)
  if ! npm exec --offline --no -- node-gyp --version >/dev/null 2>&1; then
    gyp="node $(npm root -g)/npm/node_modules/node-gyp/bin/node-gyp.js"
  else
    gyp='npm exec --offline --no -- node-gyp'
  fi
  if ! $gyp rebuild ${npm_config_nodedir:+--nodedir="$npm_config_nodedir"} >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    exit 1
  fi
  rm -f "$log"
fi

node_modules/.bin/tsc -p .
node dist/lab/setup/bundle.js
chmod 0755 dist/src/main.js
mkdir -p node_modules/.bin
ln -sf ../../dist/src/main.js node_modules/.bin/headgate
