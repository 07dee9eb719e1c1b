#!/bin/bash
# fuzz.sh TIME [PATTERN]: runs each fuzz target whose "package target" matches
# PATTERN for TIME (30s, 1h), as many at once as there are processors, and prints how
# often each ran and what it found. The output of each is in out/fuzz. What fails
# is kept by go test in testdata/fuzz of its package: it belongs into the commit that
# mends it.
set -eu -o pipefail
time=$1 pattern=${2:-.}
mkdir -p out/fuzz

list() {
    grep -l --include='*_test.go' -r '^func Fuzz' . | xargs -n 1 dirname | sort -u | while read -r dir; do
        grep -h '^func Fuzz' "$dir"/*_test.go | sed 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/' | sort | sed "s|^|$dir |"
    done | grep -E "$pattern"
}

run() {
    local dir=$1 target=$2 time=$3 log result=ok
    log=out/fuzz/$(tr / . <<<"${dir#./}").$target
    # Where inputs run on several goroutines new code is not always new for the same
    # reason, and minimizing it would take most of the time.
    GOMAXPROCS=1 "${GO:-go}" test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 50x -parallel 1 "$dir" >"$log" 2>&1 || result=FAIL
    awk -v name="${dir#./} $target" -v result="$result" '
        match($0, /execs: [0-9]+/) { execs = substr($0, RSTART + 7, RLENGTH - 7) }
        match($0, /total: [0-9]+/) { total = substr($0, RSTART + 7, RLENGTH - 7) }
        END { printf "%-44s %12d runs %6d inputs  %s\n", name, execs, total, result }' "$log"
    if [ $result = FAIL ]; then
        grep -v '^fuzz: elapsed' "$log" | head -40 >&2
        return 1
    fi
}
export -f run

list | xargs -P "$(nproc)" -L 1 bash -c 'run "$1" "$2" "$0"' "$time"
