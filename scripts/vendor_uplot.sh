#!/bin/sh
# Fetches the chart library that `bertstream report` puts into its pages, as it lies in src/cli/report/page:
# uPlot 1.6.32 (MIT), minified by its authors, unchanged here. Needs npm. Run it to check or to renew the copy.
set -eu
version=1.6.32
integrity=sha512-KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==
here=$(cd "$(dirname "$0")/.." && pwd)/src/cli/report/page
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm pack --silent "uplot@$version" >/dev/null
found=sha512-$(openssl dgst -sha512 -binary "uplot-$version.tgz" | base64 -w 0)
if [ "$found" != "$integrity" ]; then
    echo "uplot-$version.tgz has $found, expected $integrity" >&2
    exit 1
fi
tar xzf "uplot-$version.tgz"
cp package/dist/uPlot.iife.min.js package/dist/uPlot.min.css "$here/"
cp package/LICENSE "$here/uPlot.LICENSE"
echo "uPlot $version is in $here"
