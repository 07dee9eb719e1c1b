#!/bin/sh
# Measures two builds of taproot in turns, and prints benchstat's table.
#
#	compare.sh OLD NEW [OPTION OF BENCH]...
#
# OLD and NEW are programs or commits. NEW may be empty: what is here. The
# values stay in out/compare/values.txt, for another benchstat -col build.
set -eu
out=$PWD/out/compare
tools=$PWD/out/tools
mkdir -p "$out" "$tools"

# program NAME WHAT builds a commit, or copies a program, as out/compare/NAME.
program() {
    if [ -f "$2" ] && [ -x "$2" ]; then
        cp -- "$2" "$out/$1"
        return
    fi
    commit=$(git rev-parse --verify --quiet --end-of-options "$2^{commit}") || {
        echo "compare: $2 is neither a program nor a commit" >&2
        exit 2
    }
    tree=$out/tree-$1
    git worktree add --quiet --force --detach "$tree" "$commit"
    built=0
    (cd "$tree" && CGO_ENABLED=0 go build -trimpath -buildvcs=false \
        -ldflags "-s -w -X main.version=$(git describe --tags --always "$commit")" -o "$out/$1" ./cmd/taproot) || built=$?
    git worktree remove --force "$tree"
    return $built
}

[ -n "${1:-}" ] || {
    echo "compare: OLD is a program or a commit: make bench-compare OLD=HEAD~1" >&2
    exit 2
}
[ -n "${2:-}" ] || make build
program old "$1"
program new "${2:-bin/taproot}"
shift 2
go build -C internal/tools -o "$tools/" golang.org/x/perf/cmd/benchstat
# Six rounds are the fewest from which benchstat tells a difference.
go run ./test/bench -quick -rounds 6 -old "$out/old" -taproot "$out/new" -format benchstat "$@" >"$out/values.txt"
"$tools/benchstat" -col build -ignore version "$out/values.txt"
